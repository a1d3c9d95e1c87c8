"""Items: what a conversation is made of.

An item is a JSON object of the Responses vocabulary, always with `id` and `type`: a `message`, a `function_call` and its
`function_call_output`, a `file_search_call`, `reasoning`, … It stays a plain dict on purpose: whatever a client or a
model sends comes back unchanged, also what this version does not know.
"""

from collections.abc import Collection
from typing import Any, TypeAlias

Item: TypeAlias = dict[str, Any]
Part: TypeAlias = dict[str, Any]

ID_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "file_search_call": "fs",
    "reasoning": "rs",
    "web_search_call": "ws",
    "code_interpreter_call": "ci",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "compaction": "cmp",
}


CLIENT_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Calls that a client answers, and the field that holds what the model wrote for them."""
OUTPUTS = ("function_call_output", "custom_tool_call_output")
"""What a client answers them with."""


RESULTS = "file_search_call.results"
LOGPROBS = "message.output_text.logprobs"
PARENTS = "backtalk.parent_id"
_ASKED_FOR = {
    "file_search_call": ("results", RESULTS),
    "web_search_call": ("results", "web_search_call.results"),
    "code_interpreter_call": ("outputs", "code_interpreter_call.outputs"),
    "reasoning": ("encrypted_content", "reasoning.encrypted_content"),
}
_IMAGES = {
    "message": ("content", "message.input_image.image_url"),
    "computer_call_output": ("output", "computer_call_output.output.image_url"),
}
INCLUDABLE = (
    *(asked for _, asked in (*_ASKED_FOR.values(), *_IMAGES.values())),
    "web_search_call.action.sources",
    LOGPROBS,
    PARENTS,
)
"""What `include` may ask for; `backtalk.parent_id` is ours, for the items of conversations."""


def id_prefix(item_type: str) -> str:
    """The conventional prefix of an item's id."""
    return ID_PREFIXES.get(item_type, "item")


def parts_field(item: Item) -> str:
    """The field that an item says something in."""
    return "output" if item.get("type") in OUTPUTS or "content" not in item else "content"


def text_of(item: Item) -> str:
    """All text in an item's content, parts joined by newlines. Shapes: a string, or a list of parts with `text`.

    What is neither (the object that a `computer_call_output` holds) has no text.
    """
    content = item.get(parts_field(item), "")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "\n".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def is_user_message(item: Item) -> bool:
    return item.get("type") == "message" and item.get("role") == "user"


def output_text(text: str, annotations: list[dict[str, Any]] | None = None) -> Part:
    """A text part of an assistant's message."""
    return {"type": "output_text", "text": text, "annotations": annotations or [], "logprobs": []}


def present(item: Item, include: Collection[str]) -> Item:
    """An item as it goes out: without what has to be asked for by `include`."""
    kind = item.get("type", "")
    field, asked = _ASKED_FOR.get(kind, ("", ""))
    if field and item.get(field) is not None and asked not in include:
        return {**item, field: None}
    field, asked = _IMAGES.get(kind, ("", ""))
    if field and asked not in include and _has_image(item.get(field)):
        return {**item, field: _without_images(item[field])}
    return item


def _has_image(content: Any) -> bool:
    if isinstance(content, list):
        return any(map(_has_image, content))
    return isinstance(content, dict) and content.get("image_url") is not None


def _without_images(content: Any) -> Any:
    if isinstance(content, list):
        return [_without_images(part) for part in content]
    return {**content, "image_url": None} if _has_image(content) else content
