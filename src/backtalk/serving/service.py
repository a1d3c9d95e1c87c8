"""Lists models, embeds and reranks with the embedder of the search, and hands on what is an upstream's to answer."""

import asyncio
from typing import Any

import msgspec

from backtalk.core.errors import InvalidRequest, ModelNotFound, NotFound
from backtalk.core.ids import new_id
from backtalk.domain.model import ModelCard
from backtalk.http.egress import Egress
from backtalk.models.registry import Models
from backtalk.search.base import Embedder
from backtalk.serving import rerank
from backtalk.serving.batches import Batches
from backtalk.serving.embeddings import render, texts_of
from backtalk.serving.relay import MODERATIONS, RERANK, Relay, moderator

STATIC = "backtalk/static"
"""The model id of the search's own embedder. It answers to the embedder's own name too."""
_FEW = 16
"""Vectors that are written sooner than a thread would have begun."""


class Serving:
    """Models as `/v1/models` shows them, and what is asked of them without a turn."""

    def __init__(self, models: Models, egress: Egress, embedder: Embedder) -> None:
        self._models = models
        self._embedder = embedder
        self._batches = Batches(embedder)
        self._relay = Relay(egress)

    async def cards(self) -> list[ModelCard]:
        """All models, the embedder's among them."""
        return [*await self._models.list(), ModelCard(STATIC, owned_by="backtalk")]

    async def card(self, model_id: str) -> ModelCard:
        """Raises ModelNotFound for what is not listed."""
        cards = await self.cards()
        named = {card.id.partition("/")[2]: card for card in reversed(cards)} | {card.id: card for card in cards}
        if model_id not in named:
            raise ModelNotFound(model_id, ", ".join(card.id for card in cards[:20]))
        return msgspec.structs.replace(named[model_id], id=model_id)

    async def embed(self, body: dict[str, Any]) -> bytes:
        """Answers the body of an embeddings request; an upstream's answer is handed on as it came."""
        if self._is_ours(body["model"]):
            return await self._embed_here(body)
        return await self._ask("/embeddings", body)

    async def rerank(self, body: dict[str, Any]) -> bytes | dict[str, Any]:
        """Answers the body of a rerank request: here when no other model is named."""
        if self._is_ours(body.get("model") or STATIC):
            return await self._rerank_here(body)
        return await self._ask(RERANK, body)

    async def moderate(self, body: dict[str, Any]) -> bytes:
        """Hands on the body of a moderations request. Raises NotFound when there is nobody to ask."""
        if body.get("model"):
            found = await self._models.find_upstream(body["model"])
        else:
            upstream = moderator(self._models.upstreams)
            found = (upstream, "") if upstream else None
        if found is None:
            raise _no_moderator()
        upstream, name = found
        return await self._relay.post(upstream, MODERATIONS, name, body)

    def _is_ours(self, model: str | None) -> bool:
        return model in (STATIC, self._embedder.name)

    async def _ask(self, path: str, body: dict[str, Any]) -> bytes:
        found = await self._models.find_upstream(body["model"])
        if found is None:
            raise ModelNotFound(body["model"], STATIC)
        upstream, name = found
        return await self._relay.post(upstream, path, name, body)

    async def _embed_here(self, body: dict[str, Any]) -> bytes:
        texts = texts_of(body["input"])
        dimensions = body.get("dimensions") or self._embedder.dimension
        if dimensions > self._embedder.dimension:
            most = self._embedder.dimension
            raise InvalidRequest(
                f"{STATIC} has {most} dimensions, not {dimensions}.",
                param="dimensions",
                code="invalid_value",
            )
        embedded = await self._batches.embed(texts)
        asked = (body["model"], embedded, dimensions, body.get("encoding_format") or "float")
        return render(*asked) if len(texts) <= _FEW else await asyncio.to_thread(render, *asked)

    async def _rerank_here(self, body: dict[str, Any]) -> dict[str, Any]:
        query, documents = body["query"], rerank.texts_of(body["documents"])
        embedded = await self._batches.embed([text[: rerank.LONGEST] for text in (query, *documents)])
        scores = await asyncio.to_thread(rerank.scores, query, documents, embedded.vectors)
        shown = documents if body.get("return_documents") else None
        return {
            "id": new_id("rerank"),
            "model": body["model"] if self._is_ours(body.get("model")) else STATIC,
            "results": [
                {"index": place, "relevance_score": scores[place]}
                | ({"document": {"text": shown[place]}} if shown else {})
                for place in rerank.ranked(scores, body.get("top_n"))
            ],
            "usage": {"total_tokens": embedded.tokens},
        }


def _no_moderator() -> NotFound:
    return NotFound(
        "There is no moderation model here. Connect a server that has one: OPENAI_API_KEY, or BACKTALK_UPSTREAM with "
        "BACKTALK_UPSTREAM_KEY, for whoever runs this server to set.",
        param="model",
        code="model_not_found",
    )
