"""What a model server says that it has: asked seldom, waited for briefly, never allowed to fail a request."""

import asyncio
import logging
import re

import msgspec

from backtalk.core.clock import monotonic
from backtalk.core.errors import UpstreamError
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream

log = logging.getLogger("backtalk.models")

FRESH_SECONDS = 60.0
PATIENCE = 2.0
_RETRY_SECONDS = 5.0
_NOT_FOR_TALK = re.compile(
    r"embed|whisper|tts|dall-e|moderation|image|audio|realtime|transcribe|rerank|babbage|davinci|sora|\bbge\b|-search-",
    re.IGNORECASE,
)


class _Card(msgspec.Struct):
    id: str
    created: int | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]


_decode = msgspec.json.Decoder(_Cards, strict=False).decode


class Listing:
    """The models of one server, remembered for a minute. While it does not answer, what it said last holds."""

    def __init__(self, upstream: Upstream, egress: Egress) -> None:
        self._upstream = upstream
        self._egress = egress
        self._names: dict[str, int] = {}
        self._stale_at = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def names(self) -> dict[str, int]:
        """Names and times of creation. Waits only while nothing is known; later it is renewed behind the scenes."""
        if monotonic() >= self._stale_at and self._asking is None:
            self._asking = asyncio.ensure_future(self._renew())
        if self._asking is not None and not self._names:
            await asyncio.shield(self._asking)
        return self._names

    async def _renew(self) -> None:
        try:
            self._names = await fetch(self._upstream, self._egress)
            self._stale_at = monotonic() + FRESH_SECONDS
        except (UpstreamError, TimeoutError) as error:
            log.warning("the model server '%s' does not list its models: %s", self._upstream.name, error or "too slow")
            self._stale_at = monotonic() + _RETRY_SECONDS
        finally:
            self._asking = None


async def fetch(upstream: Upstream, egress: Egress, timeout: float = PATIENCE) -> dict[str, int]:
    """Asks a server for its models. Raises UpstreamError or TimeoutError."""
    path = "/models?limit=1000" if upstream.adapter == "anthropic" else "/models"  # which gives 20 by default
    async with (
        asyncio.timeout(timeout),
        egress.request("GET", upstream.endpoint(path), headers=upstream.headers()) as reply,
    ):
        body = await reply.body()
        if reply.status != 200:
            raise UpstreamError(f"{reply.origin} answered with status {reply.status}.")
    try:
        return {card.id.removeprefix("models/"): card.created or 0 for card in _decode(body).data}
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UpstreamError(f"{reply.origin} sent no list of models.", reason="upstream_protocol_error") from None


def is_chat_model(name: str) -> bool:
    """Whether a name looks like a model that talks, not one that embeds, listens or draws."""
    return not _NOT_FOR_TALK.search(name)
