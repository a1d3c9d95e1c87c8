"""Items that clients send, checked and brought into the one shape that the house keeps.

Written by hand rather than as a union of models: a request of twenty messages is checked in microseconds, and a
mistake is reported once, with the exact parameter.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from backtalk.core.errors import InvalidRequest
from backtalk.domain.compaction import pack, unpack
from backtalk.domain.items import INCLUDABLE, Item, Part, output_text

MAX_ITEMS = 2048
MAX_TOOLS = 128
ROLES = ("user", "assistant", "system", "developer")

_TEXT_FIELD = {
    "input_text": "text",
    "output_text": "text",
    "text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
}
_OTHER_PARTS = {"input_image", "input_file", "input_audio", "computer_screenshot"}
_PASSED_ON = {
    "reasoning",
    "web_search_call",
    "computer_call",
    "computer_call_output",
    "image_generation_call",
    "code_interpreter_call",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "tool_search_call",
    "tool_search_output",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
}


def take_input(value: Any, param: str = "input") -> list[Item]:
    """A request's `input`, a string or a list, as items. Items have no `id` unless the client gave one.

    References to stored items stay `{"type": "item_reference", "id": …}`. Raises InvalidRequest.
    """
    if isinstance(value, str):
        return [_message({"role": "user", "content": value}, param)]
    if not isinstance(value, list):
        raise _wrong_type(param, "a string or an array of items", value)
    return take_items(value, param)


def take_items(value: Any, param: str, most: int = MAX_ITEMS) -> list[Item]:
    """A list of items."""
    if not isinstance(value, list):
        raise _wrong_type(param, "an array of items", value)
    check_count(len(value), param, most)
    return [_item(item, f"{param}[{i}]") for i, item in enumerate(value)]


def take_tools(value: Any, param: str = "tools") -> list[Any]:
    """A request's list of tools, which are still to be checked one by one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong_type(param, "an array", value)
    check_count(len(value), param, MAX_TOOLS)
    return value


def take_include(values: Sequence[str] | None, param: str = "include") -> list[str]:
    """What a request wants to be told besides. Raises InvalidRequest for what nobody can be told."""
    for i, value in enumerate(values or ()):
        if value not in INCLUDABLE:
            raise InvalidRequest(
                f"Invalid value for '{param}[{i}]': '{value[:80]}'. Supported values: {', '.join(INCLUDABLE)}.",
                param=f"{param}[{i}]",
                code="invalid_value",
            )
    return [*(values or ())]


def check_count(count: int, param: str, most: int = MAX_ITEMS) -> None:
    """Raises InvalidRequest for a list that is too long."""
    if count > most:
        raise InvalidRequest(
            f"'{param}' has {count} items; at most {most} are allowed.", param=param, code="invalid_value"
        )


def _item(value: Any, param: str) -> Item:
    if not isinstance(value, dict):
        raise _wrong_type(param, "an object", value)
    if not isinstance(value.get("id"), str | None):
        raise _wrong_type(f"{param}.id", "a string", value["id"])
    kind = value.get("type")
    if kind is None:
        kind = "message" if "role" in value else "item_reference" if "id" in value else None
    if kind is None:
        raise _missing(f"{param}.type")
    if not isinstance(kind, str):
        raise _wrong_type(f"{param}.type", "a string", kind)
    take = _TAKERS.get(kind)
    if take:
        return take({**value, "type": kind}, param)
    if kind in _PASSED_ON:
        return _passed_on(value, param)
    raise InvalidRequest(
        f"Invalid value for '{param}.type': '{kind[:80]}'.", param=f"{param}.type", code="invalid_value"
    )


def _message(value: dict[str, Any], param: str) -> Item:
    role = _string(value, "role", param)
    if role not in ROLES:
        raise InvalidRequest(
            f"Invalid value for '{param}.role': '{role[:80]}'. Supported values: {', '.join(ROLES)}.",
            param=f"{param}.role",
            code="invalid_value",
        )
    if "content" not in value or value["content"] is None:
        raise _missing(f"{param}.content")
    content = value["content"]
    if isinstance(content, str):
        content = [output_text(content) if role == "assistant" else {"type": "input_text", "text": content}]
    elif isinstance(content, list):
        content = [_part(part, f"{param}.content[{i}]") for i, part in enumerate(content)]
    else:
        raise _wrong_type(f"{param}.content", "a string or an array of parts", content)
    return {**value, "type": "message", "role": role, "content": content, "status": value.get("status") or "completed"}


def _part(value: Any, param: str) -> Part:
    if not isinstance(value, dict):
        raise _wrong_type(param, "an object", value)
    kind = _string(value, "type", param)
    if field := _TEXT_FIELD.get(kind):
        text = _string(value, field, param)
        if kind == "output_text":
            return {**value, **output_text(text, _list_or_none(value, "annotations", param))}
        return value
    if kind in _OTHER_PARTS:
        return _other_part(value, kind, param)
    raise InvalidRequest(
        f"Invalid value for '{param}.type': '{kind[:80]}'.", param=f"{param}.type", code="invalid_value"
    )


def _other_part(value: dict[str, Any], kind: str, param: str) -> Part:
    """A part that is no text. What it holds is the model's to understand, but it has to hold something."""
    if kind == "input_audio":
        audio = value.get("input_audio")
        if not isinstance(audio, dict):
            raise (
                _missing(f"{param}.input_audio")
                if audio is None
                else _wrong_type(f"{param}.input_audio", "an object", audio)
            )
        for field in ("data", "format"):
            _string(audio, field, f"{param}.input_audio")
    for field in ("image_url", "file_id", "file_url", "file_data", "filename", "detail"):
        _string_or_none(value, field, param)
    if kind == "input_file":
        return _file(value, param)
    return _image(value, param) if kind == "input_image" else value


def _file(value: dict[str, Any], param: str) -> Part:
    if value.get("file_url"):
        raise InvalidRequest(
            "This server fetches nothing from other places: send the file as 'file_data', or upload it and name its "
            "'file_id'.",
            param=f"{param}.file_url",
            code="unsupported_parameter",
        )
    if not (value.get("file_id") or value.get("file_data")):
        raise _missing(f"{param}.file_data")
    return value


def _image(value: dict[str, Any], param: str) -> Part:
    url = value.get("image_url")
    if not (url or value.get("file_id")):
        raise _missing(f"{param}.image_url")
    if url and not url.startswith(("https://", "http://", "data:image/")):
        raise InvalidRequest(
            f"Invalid '{param}.image_url': it begins with https://, http:// or data:image/.",
            param=f"{param}.image_url",
            code="invalid_value",
        )
    return {"detail": "auto", **value}


def _function_call(value: dict[str, Any], param: str) -> Item:
    for field in ("call_id", "name", "arguments"):
        _string(value, field, param)
    return {**value, "status": value.get("status") or "completed"}


def _function_call_output(value: dict[str, Any], param: str) -> Item:
    _string(value, "call_id", param)
    output = value.get("output")
    if output is None:
        raise _missing(f"{param}.output")
    if isinstance(output, list):
        output = [_part(part, f"{param}.output[{i}]") for i, part in enumerate(output)]
    elif not isinstance(output, str):
        raise _wrong_type(f"{param}.output", "a string or an array of parts", output)
    return {**value, "output": output, "status": value.get("status") or "completed"}


def _file_search_call(value: dict[str, Any], param: str) -> Item:
    results = _objects(value, "results", param)
    _list_or_none(value, "queries", param)
    return value if results is None else {**value, "results": [_result(*pair) for pair in results]}


def _result(value: dict[str, Any], param: str) -> dict[str, Any]:
    """A search result with the fields that prompts are made of."""
    for field in ("file_id", "filename", "text"):
        _string_or_none(value, field, param)
    if not isinstance(value.get("score"), int | float | None):
        raise _wrong_type(f"{param}.score", "a number", value["score"])
    texts = {field: value.get(field) or "" for field in ("file_id", "filename", "text")}
    return {**value, **texts}


def _custom_tool_call(value: dict[str, Any], param: str) -> Item:
    for field in ("call_id", "name", "input"):
        _string(value, field, param)
    return {**value, "status": value.get("status") or "completed"}


def _compaction(value: dict[str, Any], param: str) -> Item:
    """What is in it is checked as any input, and kept in the shape that this gives."""
    place = f"{param}.encrypted_content"
    try:
        found = unpack(_string(value, "encrypted_content", param))
        items = [_item(item, place) for item in found.items]
        if any(item["type"] in ("item_reference", "compaction") for item in items):
            raise ValueError("it holds what it cannot")
    except (ValueError, InvalidRequest) as error:
        raise InvalidRequest(f"'{place}' cannot be read: {error}.", param=place, code="invalid_value") from None
    return {**value, "encrypted_content": pack(msgspec.structs.replace(found, items=items))}


def _mcp_call(value: dict[str, Any], param: str) -> Item:
    _string(value, "name", param)
    _string_or_none(value, "arguments", param)
    return _passed_on(value, param)


def _passed_on(value: dict[str, Any], param: str) -> Item:
    """An item that goes through unchanged: its parts have to be objects, whatever is in them."""
    for field in ("content", "summary"):
        if not isinstance(value.get(field), str):
            _objects(value, field, param)
    return value


def _reference(value: dict[str, Any], param: str) -> Item:
    return {"type": "item_reference", "id": _string(value, "id", param)}


_TAKERS: dict[str, Callable[[dict[str, Any], str], Item]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "custom_tool_call": _custom_tool_call,
    "custom_tool_call_output": _function_call_output,
    "compaction": _compaction,
    "item_reference": _reference,
    "file_search_call": _file_search_call,
    "mcp_call": _mcp_call,
}


def take_function(tool: dict[str, Any], param: str, *, strict: bool) -> dict[str, Any]:
    """A function that a client offers, with defaults filled in. `strict` is the wire's own default."""
    name = _string(tool, "name", param)
    if not name or len(name) > 128:
        raise InvalidRequest(
            f"Invalid '{param}.name': a name of 1 to 128 characters is expected.",
            param=f"{param}.name",
            code="invalid_value",
        )
    _string_or_none(tool, "description", param)
    for field, kind in (("parameters", dict), ("strict", bool)):
        if not isinstance(tool.get(field), kind | None):
            raise _wrong_type(f"{param}.{field}", _NAMES[kind], tool[field])
    given = tool.get("strict")
    defaults = {"type": "function", "description": None, "parameters": None}
    return {**defaults, **tool, "type": "function", "strict": strict if given is None else given}


def take_metadata(value: Any, param: str = "metadata") -> dict[str, str]:
    """Up to 16 pairs of strings, keys of up to 64 characters and values of up to 512."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong_type(param, "an object", value)
    if len(value) > 16:
        raise InvalidRequest(f"'{param}' has more than 16 pairs.", param=param, code="invalid_value")
    for key, text in value.items():
        if not isinstance(text, str):
            raise _wrong_type(f"{param}.{key[:64]}", "a string", text)
        if len(key) > 64 or len(text) > 512:
            raise InvalidRequest(
                f"'{param}.{key[:64]}' is too long: keys have up to 64 characters, values up to 512.",
                param=f"{param}.{key[:64]}",
                code="invalid_value",
            )
    return value


def _string(value: dict[str, Any], field: str, param: str) -> str:
    found = value.get(field)
    if found is None:
        raise _missing(f"{param}.{field}")
    if not isinstance(found, str):
        raise _wrong_type(f"{param}.{field}", "a string", found)
    return found


def _string_or_none(value: dict[str, Any], field: str, param: str) -> None:
    if not isinstance(value.get(field), str | None):
        raise _wrong_type(f"{param}.{field}", "a string", value[field])


def _objects(value: dict[str, Any], field: str, param: str) -> list[tuple[dict[str, Any], str]] | None:
    """(object, parameter) of each entry of a list; None where there is no list."""
    found = _list_or_none(value, field, param)
    if found is None:
        return None
    for i, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise _wrong_type(f"{param}.{field}[{i}]", "an object", entry)
    return [(entry, f"{param}.{field}[{i}]") for i, entry in enumerate(found)]


def _list_or_none(value: dict[str, Any], field: str, param: str) -> list[Any] | None:
    found = value.get(field)
    if found is not None and not isinstance(found, list):
        raise _wrong_type(f"{param}.{field}", "an array", found)
    return found


def _missing(param: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


_NAMES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}


def _wrong_type(param: str, expected: str, value: Any) -> InvalidRequest:
    got = _NAMES.get(type(value), "null")
    return InvalidRequest(
        f"Invalid type for '{param}': expected {expected}, but got {got} instead.", param=param, code="invalid_type"
    )
