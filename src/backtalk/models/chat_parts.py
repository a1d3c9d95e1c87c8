"""Contents of items as Chat Completions takes them: text as a string, whatever else as a part."""

import re
from mimetypes import guess_type
from typing import Any

import msgspec

from backtalk.core.errors import InvalidRequest
from backtalk.domain.items import Item, Part, text_of

_BASE64 = re.compile(r"[A-Za-z0-9+/=_-]{500,}")
_LONGEST_RESULT = 4000
_FOLLOWS = "It returned no text. What it returned follows."

UNANSWERED = "This call was not answered."
_RESULTS = ("result", "results", "outputs")
"""Fields in which a call of a tool that a server ran holds what came of it."""
_NO_ARGUMENTS = {"id", "type", "status", "call_id", *_RESULTS}
"""Fields of such a call that say nothing of what was asked."""


def plain(item: Item) -> str:
    """An assistant's message as text, its refusal included."""
    content = item.get("content")
    if not isinstance(content, list):
        return content or ""
    return "".join(part.get("text") or part.get("refusal") or "" for part in content)


def content(item: Item) -> str | list[Part]:
    """Text stays a string, which every server takes; a list of parts only where something else is in it."""
    parts = item.get("content")
    if not isinstance(parts, list) or all("text" in part for part in parts):
        return text_of(item)
    return [_part(part) for part in parts]


def returned(item: Item) -> tuple[str, list[Part]]:
    """What a client's tool returned: its text, and parts for what is none."""
    output = next((item[name] for name in ("output", "tools", "status") if item.get(name) is not None), "")
    parts: list[Any] = output if isinstance(output, list) else [output]
    if not all(map(is_part, parts)):
        return written(output), []
    rest = [_part(part) for part in parts if "text" not in part]
    return text_of(item) or (_FOLLOWS if rest else ""), rest


def other_call(item: Item) -> tuple[str, str, str | None]:
    """(call id, arguments, answer) of a call that a wire has no form for. One that ran where the model was is answered."""
    arguments = {key: value for key, value in item.items() if key not in _NO_ARGUMENTS and value is not None}
    result = next((item[key] for key in _RESULTS if item.get(key) is not None), None)
    answered = result is not None or not item.get("call_id")
    answer = result_text(item.get("status") if result is None else result) if answered else None
    return item.get("call_id") or item["id"], written(arguments), answer


def written(value: Any) -> str:
    """A value as text: JSON, unless it is text."""
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def result_text(value: Any) -> str:
    """What a tool of somebody's server found, short: an image in base64 says nothing to a model that reads."""
    return _BASE64.sub("…", written(value))[:_LONGEST_RESULT]


def is_part(value: Any) -> bool:
    """Whether it is content. What a shell returns, for one, is not."""
    kind = str(value.get("type")) if isinstance(value, dict) else ""
    return kind.startswith("input_") or kind in ("output_text", "text", "computer_screenshot")


def _part(part: Part) -> Part:
    match part.get("type"):
        case "input_image" | "computer_screenshot":
            return _image(part)
        case "input_audio":
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        case "input_file" if part.get("file_data"):
            return _file(part)
        case kind if "text" not in part:
            raise InvalidRequest(f"This model server takes no '{kind}' as input. Send it as text.", param="input")
    return {"type": "text", "text": part["text"]}


def _image(part: Part) -> Part:
    if not part.get("image_url"):
        raise InvalidRequest("An image needs an 'image_url': https:// or a data: URL.", param="input")
    image = {"url": part["image_url"]}
    if part.get("detail"):
        image["detail"] = part["detail"]
    return {"type": "image_url", "image_url": image}


def _file(part: Part) -> Part:
    """Servers want a data: URL; in the Responses API bare base64 will do."""
    name, data = part.get("filename") or "file", part["file_data"]
    if not data.startswith("data:"):
        data = f"data:{guess_type(name)[0] or 'application/octet-stream'};base64,{data}"
    return {"type": "file", "file": {"filename": name, "file_data": data}}
