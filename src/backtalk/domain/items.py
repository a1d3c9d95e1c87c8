"""Items: what a conversation is made of.

An item is a JSON object of the Responses vocabulary, always with `id` and `type`: a `message`, a `function_call` and its
`function_call_output`, a `file_search_call`, `reasoning`, … It stays a plain dict on purpose: whatever a client or a
model sends comes back unchanged, also what this version does not know.
"""

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
    "compaction": "cmp",
}


def id_prefix(item_type: str) -> str:
    """The conventional prefix of an item's id."""
    return ID_PREFIXES.get(item_type, "item")


def text_of(item: Item) -> str:
    """All text in an item's content, parts joined by newlines. Shapes: a string, or a list of parts with `text`.

    What is neither (the object that a `computer_call_output` holds) has no text.
    """
    content = item.get("content", item.get("output", ""))
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "\n".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def is_user_message(item: Item) -> bool:
    return item.get("type") == "message" and item.get("role") == "user"


def output_text(text: str, annotations: list[dict[str, Any]] | None = None) -> Part:
    """A text part of an assistant's message."""
    return {"type": "output_text", "text": text, "annotations": annotations or [], "logprobs": []}
