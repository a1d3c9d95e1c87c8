"""`/v1/models`, `/v1/embeddings`, `/v1/rerank` and `/v1/moderations`."""

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from backtalk.domain.caller import Caller
from backtalk.domain.model import ModelCard
from backtalk.http.caller import caller
from backtalk.http.egress import Egress
from backtalk.http.openapi import answers
from backtalk.http.route import JSON, router
from backtalk.http.sse import is_left
from backtalk.models.registry import Models
from backtalk.search.base import Embedder
from backtalk.serving.answers import EmbeddingList, ModelList, ModelObject, ModerationResults, Ranking
from backtalk.serving.service import Serving
from backtalk.serving.wire import EmbeddingsBody, ModerationsBody, RerankBody

ANTHROPIC = "anthropic-version"
"""The header by which Anthropic's clients are told apart."""
CallerOf = Annotated[Caller, Depends(caller)]
ModelId = Annotated[str, Path(description="A model's id, such as `backtalk/static`.", examples=["backtalk/static"])]
_NOBODY_WAITED = 499
"""The status, as nginx writes it, of a request whose client has left. Only the log sees it."""


def routes(models: Models, egress: Egress, embedder: Embedder) -> APIRouter:
    """`embedder` makes the vectors of `/v1/embeddings` when its own name is asked for, and helps to rerank."""
    serving = Serving(models, egress, embedder)
    api = router(tags=["Models"])

    @api.get(
        "/v1/models",
        operation_id="listModels",
        summary="List models",
        response_model=None,
        responses=answers(ModelList),
    )
    async def list_models(request: Request, caller: CallerOf) -> Response:
        """Those of every model server that is connected and answers, and what is built in."""
        cards = await serving.cards()
        if ANTHROPIC in request.headers:
            return JSON(_page(cards))
        return JSON({"object": "list", "data": [_shown(card) for card in cards]})

    @api.get(
        "/v1/models/{model:path}",
        operation_id="retrieveModel",
        summary="Retrieve a model",
        response_model=None,
        responses=answers(ModelObject, 404),
    )
    async def get_model(model: ModelId, request: Request, caller: CallerOf) -> Response:
        card = await serving.card(model)
        return JSON(_info(card) if ANTHROPIC in request.headers else _shown(card))

    @api.post(
        "/v1/embeddings",
        operation_id="createEmbeddings",
        summary="Create embeddings",
        response_model=None,
        responses=answers(EmbeddingList, 404, 429, 502, 503),
    )
    async def create_embeddings(body: EmbeddingsBody, request: Request, caller: CallerOf) -> Response:
        """Vectors of texts, whose angles tell how near their meanings are."""
        return await _while_wanted(request, serving.embed(body.model_dump(exclude_unset=True)))

    @api.post(
        "/v1/rerank",
        operation_id="createRerank",
        summary="Rerank documents",
        response_model=None,
        responses=answers(Ranking, 404, 429, 502, 503),
    )
    async def create_rerank(body: RerankBody, request: Request, caller: CallerOf) -> Response:
        """Puts documents in the order in which they answer a query.

        A reranker of an upstream is asked when it is named. `backtalk/static` is no such model: it mixes the share of
        the query's words that a document has, rare ones weighing more, with the nearness of their vectors. Without any
        upstream it answers whatever model is named; `model` in the answer tells.
        """
        return await _while_wanted(request, serving.rerank(body.model_dump(exclude_unset=True)))

    @api.post(
        "/v1/moderations",
        operation_id="createModeration",
        summary="Classify texts and images",
        response_model=None,
        responses=answers(ModerationResults, 404, 429, 502, 503),
    )
    async def create_moderation(body: ModerationsBody, request: Request, caller: CallerOf) -> Response:
        """Whether content may do harm, in the judgement of an upstream's model. None is built in: without one, 404."""
        return await _while_wanted(request, serving.moderate(body.model_dump(exclude_unset=True)))

    return api


async def _while_wanted(request: Request, work: Coroutine[Any, Any, Any]) -> Response:
    """The answer; the work is dropped when its client leaves."""
    task = asyncio.ensure_future(work)
    try:
        if await is_left(request.receive, task):
            return Response(status_code=_NOBODY_WAITED)
        return JSON(await task)
    finally:
        task.cancel()


def _page(cards: Sequence[ModelCard]) -> dict[str, Any]:
    """A list of models as Anthropic's clients read it: all of them on one page."""
    data = [_info(card) for card in cards]
    return {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}


def _info(card: ModelCard) -> dict[str, Any]:
    created = datetime.fromtimestamp(card.created, UTC).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": card.id, "display_name": card.id, "created_at": created, "lifecycle": "active"}


def _shown(card: ModelCard) -> dict[str, Any]:
    """OpenAI's object; what we know besides is in a field of ours."""
    shown: dict[str, Any] = {"id": card.id, "object": "model", "created": card.created, "owned_by": card.owned_by}
    ours: dict[str, Any] = {"state": card.state, "stands_for": card.stands_for or None}
    if told := {name: value for name, value in ours.items() if value is not None}:
        shown["backtalk"] = told
    return shown
