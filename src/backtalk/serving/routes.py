"""`/v1/models` and `/v1/embeddings`."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from backtalk.domain.caller import Caller
from backtalk.domain.model import ModelCard
from backtalk.http.caller import caller
from backtalk.http.egress import Egress
from backtalk.http.route import JSON, router
from backtalk.models.registry import Models
from backtalk.search.base import Embedder
from backtalk.serving.service import Serving
from backtalk.serving.wire import EmbeddingsBody

CallerOf = Annotated[Caller, Depends(caller)]


def routes(models: Models, egress: Egress, embedder: Embedder) -> APIRouter:
    """`embedder` makes the vectors of `/v1/embeddings` when its own name is asked for."""
    serving = Serving(models, egress, embedder)
    api = router(tags=["models"])

    @api.get("/v1/models", summary="List models", response_model=None)
    async def list_models(caller: CallerOf) -> Response:
        return JSON({"object": "list", "data": [_shown(card) for card in await serving.cards()]})

    @api.get("/v1/models/{model:path}", summary="Get a model", response_model=None)
    async def get_model(model: str, caller: CallerOf) -> Response:
        return JSON(_shown(await serving.card(model)))

    @api.post("/v1/embeddings", summary="Make embeddings", response_model=None)
    async def create_embeddings(body: EmbeddingsBody, caller: CallerOf) -> Response:
        return JSON(await serving.embed(body.model_dump(exclude_unset=True)))

    return api


def _shown(card: ModelCard) -> dict[str, Any]:
    return {"id": card.id, "object": "model", "created": card.created, "owned_by": card.owned_by}
