"""Files that the input of a turn holds or names: their bytes, and what they say."""

import asyncio
import tempfile
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path

from backtalk.core.errors import InvalidRequest, NotFound, TooLarge
from backtalk.domain.caller import Caller
from backtalk.domain.turn import Attachment
from backtalk.files.service import Files, clean_filename
from backtalk.retrieval.formats import Unreadable
from backtalk.retrieval.parse import Parser

MAX_BYTES = 32 * 2**20
"""Of a file that goes into a prompt."""
_REMEMBERED = 4 * 2**20
_FILES = 256
"""Characters of texts that are kept, and of how many files: one stays in a talk for many turns."""


class StoredAttachments:
    """Uploaded files, and those that came with a request, as `domain.turn.Attachments`."""

    def __init__(self, files: Files, parser: Parser) -> None:
        self._files = files
        self._parser = parser
        self._texts: OrderedDict[tuple[str, bytes], str] = OrderedDict()

    async def open(self, caller: Caller, file_id: str) -> Attachment:
        record = await self._files.get(caller.project, file_id)
        if record.bytes > MAX_BYTES:
            raise TooLarge(
                f"The file {file_id} is larger than the {MAX_BYTES:,} bytes that fit into a prompt: "
                "put it into a vector store and use file_search."
            )
        path = self._files.path(caller.project, file_id)
        try:
            return Attachment(record.filename, await asyncio.to_thread(path.read_bytes), file_id)
        except FileNotFoundError:  # it was deleted in this moment
            raise NotFound(f"No such File object: {file_id}", param="id") from None

    async def text(self, caller: Caller, attachment: Attachment) -> str:
        key = (attachment.filename, await asyncio.to_thread(_digest, attachment.data))
        if key in self._texts:
            self._texts.move_to_end(key)
            return self._texts[key]
        text = await self._read(attachment)
        self._remember(key, text)
        return text

    async def _read(self, attachment: Attachment) -> str:
        name = clean_filename(attachment.filename)
        with tempfile.TemporaryDirectory(prefix="backtalk-") as folder:
            path = Path(folder) / "attachment"
            await asyncio.to_thread(path.write_bytes, attachment.data)
            try:
                return await self._parser.parse(path, name)
            except Unreadable as error:
                raise InvalidRequest(f"The file '{name}' cannot be read: {error}", code="invalid_value") from None

    def _remember(self, key: tuple[str, bytes], text: str) -> None:
        self._texts[key] = text
        while sum(map(len, self._texts.values())) > _REMEMBERED or len(self._texts) > _FILES:
            self._texts.popitem(last=False)


def _digest(data: bytes) -> bytes:
    return sha256(data).digest()
