"""`chat` and `ingest` with a running server, by its public API."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from backtalk.cli.backend import PAGE, Entry, Unreachable
from backtalk.core.errors import BacktalkError, NotFound, Unauthorized
from backtalk.models.sse import EventParser

if TYPE_CHECKING:
    import aiohttp

_PATIENCE = 2.0


class OverHTTP:
    """A server, by its public API."""

    def __init__(self, session: "aiohttp.ClientSession", url: str) -> None:
        self.name = url
        self._session = session

    async def is_there(self) -> bool:
        """Whether a Backtalk answers, and not some other program that took the port."""
        import aiohttp  # noqa: PLC0415  # lazy: see `connect`

        try:
            async with asyncio.timeout(_PATIENCE), self._session.get(f"{self.name}/healthz") as reply:
                health = await reply.json()
                return isinstance(health, dict) and health.get("status") == "ok" and "version" in health
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False

    async def events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        parser = EventParser(lambda: BacktalkError("the server sent an event that is too large."))
        async with self._send("POST", "/v1/responses", json={**body, "stream": True}) as reply:
            async for read in reply.content.iter_any():
                for data in parser.feed(read):
                    if data != b"[DONE]":
                        yield msgspec.json.decode(data)

    async def open_conversation(self, conversation_id: str | None) -> str:
        if conversation_id is None:
            return str((await self._json("POST", "/v1/conversations", json={}))["id"])
        return str((await self._json("GET", f"/v1/conversations/{conversation_id}"))["id"])

    async def stores(self) -> AsyncIterator[tuple[str, str]]:
        async for store in self._pages("/v1/vector_stores"):
            yield store["id"], store["name"]

    async def create_store(self, name: str) -> str:
        return str((await self._json("POST", "/v1/vector_stores", json={"name": name}))["id"])

    async def entries(self, store_id: str) -> AsyncIterator[Entry]:
        async for file in self._pages(f"/v1/vector_stores/{store_id}/files"):
            yield _entry(file)

    async def entry(self, store_id: str, file_id: str) -> Entry:
        return _entry(await self._json("GET", f"/v1/vector_stores/{store_id}/files/{file_id}"))

    async def upload(self, path: Path) -> str:
        import aiohttp  # noqa: PLC0415  # lazy: see `connect`

        with await asyncio.to_thread(path.open, "rb") as file:
            form = aiohttp.FormData({"purpose": "assistants"})
            form.add_field("file", file, filename=path.name.encode("utf-8", "replace").decode())
            patient = aiohttp.ClientTimeout(total=None, sock_connect=5)
            return str((await self._json("POST", "/v1/files", data=form, timeout=patient))["id"])

    async def attach(self, store_id: str, file_id: str, attributes: dict[str, Any]) -> None:
        body = {"file_id": file_id, "attributes": attributes}
        await self._json("POST", f"/v1/vector_stores/{store_id}/files", json=body)

    async def delete(self, file_id: str) -> None:
        try:
            await self._json("DELETE", f"/v1/files/{file_id}")
        except NotFound:
            return

    async def _pages(self, path: str) -> AsyncIterator[dict[str, Any]]:
        after: dict[str, str] = {}
        while True:
            found = await self._json("GET", path, params={"limit": str(PAGE), "order": "asc", **after})
            for one in found["data"]:
                yield one
            if not found["has_more"]:
                return
            after = {"after": found["last_id"]}

    async def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        async with self._send(method, path, **options) as reply:
            answer: dict[str, Any] = msgspec.json.decode(await reply.read())
            return answer

    @asynccontextmanager
    async def _send(self, method: str, path: str, **options: Any) -> AsyncIterator["aiohttp.ClientResponse"]:
        import aiohttp  # noqa: PLC0415  # lazy: see `connect`

        try:
            async with self._session.request(method, self.name + path, **options) as reply:
                if reply.status >= 400:
                    raise _refusal(reply.status, await reply.read())
                yield reply
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            if await self.is_there():
                why = str(error) or type(error).__name__
                raise BacktalkError(f"the server broke off its answer ({why}).") from error
            raise Unreachable(f"the server at {self.name} does not answer any more.") from error


def _refusal(status: int, body: bytes) -> BacktalkError:
    """The error that a server answered with, its message for the user."""
    try:
        message = str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return BacktalkError(f"the server answered with status {status}. Is it a Backtalk server?")
    if status == 401:
        return Unauthorized(f"{message} Give it here with --key or in BACKTALK_KEY.")
    return NotFound(message) if status == 404 else BacktalkError(message)


def _entry(file: dict[str, Any]) -> Entry:
    reason = (file.get("last_error") or {}).get("message", "")
    return Entry(file["id"], file["status"], file.get("attributes") or {}, reason)
