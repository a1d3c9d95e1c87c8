"""Requests that an upstream's model answers: handed on as they are, and the answer as it comes."""

from typing import Any
from urllib.parse import urlsplit

import msgspec

from backtalk.core.errors import NotFound, UpstreamError
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.refusals import refusal

MODERATIONS = "/moderations"
RERANK = "/rerank"
_SELDOM = {MODERATIONS: "moderations", RERANK: "reranking"}
"""What many servers lack: their 404 may be about the path as well as about the model."""
_LACKING = (404, 405, 501)
_MOST_ANSWER = 256 * 2**20
_HAS_MODERATIONS = "api.openai.com"


class Relay:
    """Posts to upstreams."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    async def post(self, upstream: Upstream, path: str, name: str | None, body: dict[str, Any]) -> bytes:
        """The JSON that came back; `name` is what the model is called there. Raises what the refusal means."""
        headers = {"content-type": "application/json", **upstream.headers()}
        asked = body.get("model") or ""
        named = {key: value for key, value in body.items() if key != "model"} | ({"model": name} if name else {})
        data = msgspec.json.encode(named)
        async with self._egress.request("POST", upstream.endpoint(path), headers=headers, body=data) as reply:
            if reply.status in _LACKING and path in _SELDOM:
                raise _lacking(upstream, path, asked)
            if reply.status != 200:
                raise await refusal(reply, upstream, asked)
            if reply.content_type != "application/json":
                raise UpstreamError(
                    f"The model server '{upstream.name}' sent no JSON from {path}.", reason="upstream_protocol_error"
                )
            return await reply.body(_MOST_ANSWER)


def moderator(upstreams: list[Upstream]) -> Upstream | None:
    """The upstream to ask when no model is named: OpenAI's own, else the first."""
    known = [upstream for upstream in upstreams if urlsplit(upstream.url).hostname == _HAS_MODERATIONS]
    return next(iter([*known, *upstreams]), None)


def _lacking(upstream: Upstream, path: str, model: str) -> NotFound:
    what = f"model '{model[:128]}' for {_SELDOM[path]}" if model else f"model for {_SELDOM[path]}"
    return NotFound(
        f"The model server '{upstream.name}' has no {what}, or no {path}. Name a model of a server that has it, "
        "as `server/model`.",
        param="model",
        code="model_not_found",
    )
