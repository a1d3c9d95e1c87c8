"""Files and images of the input, as the model that is asked can take them."""

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from typing import Any

from backtalk.core.errors import BacktalkError, InvalidRequest, NotFound, TooLarge
from backtalk.domain.caller import Caller
from backtalk.domain.items import Item, Part, parts_field
from backtalk.domain.turn import Attachment, Attachments

MOST_BYTES = 50 * 2**20
"""Of all files of a prompt together."""
_IMAGES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}
_WITH_FILES = ("message", "function_call_output", "custom_tool_call_output")
"""Items whose parts were checked when they came in."""
_GONE = "[The file that was here is no longer available.]"


class Loader:
    """Loads what one caller's items name, for a model that takes files as they are or wants their text. For one prompt."""

    def __init__(self, attachments: Attachments, caller: Caller, *, files: bool, wire: str = "responses") -> None:
        self._attachments = attachments
        self._caller = caller
        self._files = files
        self._within = "file." if wire == "chat" else ""
        self._parts: dict[tuple[str, str | None, str], Part] = {}
        self._room = MOST_BYTES

    async def load(self, items: Sequence[Item], places: Mapping[str, str]) -> list[Item]:
        """The items with their files loaded. `places` are the parameters of those that the request itself brings: what
        is wrong with them is raised; where something older is gone, a note stands for it."""
        return [await self._item(item, places.get(item["id"])) if _has_file(item) else item for item in items]

    async def _item(self, item: Item, param: str | None) -> Item:
        field = parts_field(item)
        parts = [
            await self._part(part, param and f"{param}.{field}[{i}]") if _is_file(part) else part
            for i, part in enumerate(item[field])
        ]
        return {**item, field: parts}

    async def _part(self, part: Part, param: str | None) -> Part:
        key = (part["type"], part.get("filename"), part.get("file_id") or part.get("file_data") or "")
        try:
            if key not in self._parts:
                self._parts[key] = await self._load(part)
        except (InvalidRequest, NotFound, TooLarge) as error:
            if param is None:
                return {"type": "input_text", "text": _GONE}
            raise self._about(error, part, param) from None
        return {**part, **self._parts[key]} if part["type"] == "input_image" else self._parts[key]

    async def _load(self, part: Part) -> Part:
        attachment = await self._attachment(part)
        self._room -= len(attachment.data)
        if self._room < 0:
            raise TooLarge(f"The files of this prompt are larger than {MOST_BYTES:,} bytes together.")
        if part["type"] == "input_image":
            return {"image_url": _image_url(attachment)}
        return await self._file(attachment)

    async def _attachment(self, part: Part) -> Attachment:
        if part.get("file_id"):
            return await self._attachments.open(self._caller, part["file_id"])
        head, comma, data = (part.get("file_data") or "").rpartition(",")
        try:
            decoded = base64.b64decode(data, validate=True)
        except ValueError:  # characters that are no base64, or not even ASCII
            raise InvalidRequest("'file_data' is not base64, alone or in a data: URL.", code="invalid_value") from None
        kind = head.removeprefix("data:").partition(";")[0] if comma else ""
        return Attachment(part.get("filename") or f"file{mimetypes.guess_extension(kind) or ''}", decoded)

    async def _file(self, attachment: Attachment) -> Part:
        if self._files:
            kind = mimetypes.guess_type(attachment.filename)[0] or "application/octet-stream"
            data = f"data:{kind};base64,{base64.b64encode(attachment.data).decode()}"
            return {"type": "input_file", "filename": attachment.filename, "file_data": data}
        text = await self._attachments.text(self._caller, attachment)
        return {"type": "input_text", "text": f"<file name={attachment.filename!r}>\n{text}\n</file>"}

    def _about(self, error: BacktalkError, part: Part, param: str) -> InvalidRequest:
        """The error with the exact parameter. A file that is not there is a mistake of this request."""
        within = self._within if part["type"] == "input_file" else ""
        field = "file_id" if part.get("file_id") else "file_data"
        return InvalidRequest(error.message, param=f"{param}.{within}{field}", code=error.code or "invalid_value")


def _has_file(item: Item) -> bool:
    parts: Any = item.get(parts_field(item)) if item.get("type") in _WITH_FILES else None
    return isinstance(parts, list) and any(map(_is_file, parts))


def _is_file(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    kind = part.get("type")
    return kind == "input_file" or (kind == "input_image" and not part.get("image_url"))


def _image_url(attachment: Attachment) -> str:
    kind = next((kind for mark, kind in _IMAGES.items() if attachment.data.startswith(mark)), None)
    if attachment.data[:4] == b"RIFF" and attachment.data[8:12] == b"WEBP":
        kind = "webp"
    if kind is None:
        raise InvalidRequest(
            f"The file '{attachment.filename}' is not an image of a kind that models take (PNG, JPEG, GIF, WebP).",
            code="invalid_value",
        )
    return f"data:image/{kind};base64,{base64.b64encode(attachment.data).decode()}"
