"""What the wires check alike: tools that take text, `tool_choice`, and values out of a few."""

from collections.abc import Sequence
from typing import Any

from backtalk.core.errors import InvalidRequest
from backtalk.domain.intake import take_function

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
SUMMARIES = ("auto", "concise", "detailed")
VERBOSITIES = ("low", "medium", "high")
CALLED = ("function", "custom", "namespace", "file_search")
"""Kinds of tools that a model here can call; others are taken and not offered."""


def take_choice(choice: Any, tools: list[dict[str, Any]]) -> Any:
    """A `tool_choice` as the Responses wire has it. Raises InvalidRequest for one of what is not among the tools."""
    if choice is None:
        return "auto"
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise refuse("tool_choice", "Invalid 'tool_choice': use 'none', 'auto', 'required' or an object.")
        if choice == "required" and not any(map(_can_be_called, tools)):
            raise refuse("tool_choice", "'tool_choice' is 'required', but no tool is given that can be called here.")
        return choice
    if not isinstance(choice, dict) or not isinstance(choice.get("type"), str):
        raise wrong_type("tool_choice", "a string, or an object with a type")
    if choice["type"] == "allowed_tools":
        return _allowed_tools(choice, tools)
    _check_named(choice, tools, "tool_choice")
    return choice


def _inside(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The functions of all namespaces."""
    spaces = [tool["tools"] for tool in tools if tool["type"] == "namespace"]
    return [tool for space in spaces for tool in space if tool.get("type") == "function"]


def _can_be_called(tool: dict[str, Any]) -> bool:
    return tool["type"] in CALLED and (tool["type"] != "namespace" or bool(_inside([tool])))


def _allowed_tools(choice: dict[str, Any], tools: list[dict[str, Any]]) -> dict[str, Any]:
    allowed = choice.get("tools")
    if not isinstance(allowed, list) or not all(map(_is_named, allowed)):
        raise wrong_type("tool_choice.tools", "an array of tools, each with a type and a name")
    if not allowed:
        raise refuse("tool_choice.tools", "'tool_choice.tools' names no tool: for none, 'tool_choice' is 'none'.")
    one_of(choice.get("mode", "auto"), ("auto", "required"), "tool_choice.mode")
    if choice.get("mode") == "required" and not any(tool["type"] in CALLED for tool in allowed):
        raise refuse("tool_choice.tools", "A call is required, but no tool is named that can be called here.")
    known = {(tool["type"], tool.get("name") or tool.get("server_label")) for tool in [*tools, *_inside(tools)]}
    for i, tool in enumerate(allowed):
        if (tool["type"], tool.get("name") or tool.get("server_label")) not in known:
            raise refuse(f"tool_choice.tools[{i}]", f"Tool choice '{_label(tool)}' not found in 'tools'.")
    return {"mode": "auto", **choice}


def _check_named(choice: dict[str, Any], tools: list[dict[str, Any]], param: str) -> None:
    """What a `tool_choice` names must be among the tools, and something that can be called here."""
    kind = choice["type"]
    if kind in ("function", "custom"):
        if not isinstance(choice.get("name"), str):
            raise wrong_type(f"{param}.name", "a string")
        same = [tool for tool in tools if tool["type"] == kind and tool["name"] == choice["name"]]
        found = bool(same) or [tool["name"] for tool in _inside(tools)].count(choice["name"]) == 1
    else:
        found = any(tool["type"] == kind for tool in tools)
    if not found:
        raise refuse(param, f"Tool choice '{_label(choice)}' not found in 'tools'.")
    if kind == "namespace":
        raise refuse(param, "A namespace cannot be called: name a function of it, or allow it with 'allowed_tools'.")
    if kind not in CALLED:
        raise refuse(param, f"This server does not run '{kind[:80]}': it cannot be made to be called.")


def _label(tool: dict[str, Any]) -> str:
    return str(tool.get("name") or tool.get("server_label") or tool["type"])[:128]


def _is_named(tool: Any) -> bool:
    return (
        isinstance(tool, dict)
        and isinstance(tool.get("type"), str)
        and all(isinstance(tool.get(field), str | None) for field in ("name", "server_label"))
    )


def take_custom(tool: dict[str, Any], param: str) -> dict[str, Any]:
    """A tool that takes text, with defaults filled in."""
    take_function({"name": tool.get("name"), "description": tool.get("description")}, param, strict=False)
    form = tool.get("format")
    if not isinstance(form, dict | None):
        raise wrong_type(f"{param}.format", "an object")
    if form and form.get("type") == "grammar":
        for field in ("definition", "syntax"):
            if not isinstance(form.get(field), str):
                raise wrong_type(f"{param}.format.{field}", "a string")
    elif form:
        one_of(form.get("type"), ("text", "grammar"), f"{param}.format.type")
    return {"description": None, "format": {"type": "text"}, **tool}


def one_of(value: Any, known: Sequence[str], param: str) -> Any:
    """The value, if it is None or known. Raises InvalidRequest."""
    if value is not None and value not in known:
        raise refuse(param, f"Invalid '{param}'. Supported values: {', '.join(known)}.")
    return value


def refuse(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="invalid_value")


def wrong_type(param: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid type for '{param}': expected {expected}.", param=param, code="invalid_type")
