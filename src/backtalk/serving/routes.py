"""`/v1/models` and `/v1/embeddings`."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from starlette.responses import Response

from backtalk.domain.caller import Caller
from backtalk.domain.model import ModelCard
from backtalk.http.caller import caller
from backtalk.http.egress import Egress
from backtalk.http.openapi import answers
from backtalk.http.route import JSON, router
from backtalk.models.registry import Models
from backtalk.search.base import Embedder
from backtalk.serving.answers import EmbeddingList, ModelList, ModelObject
from backtalk.serving.service import Serving
from backtalk.serving.wire import EmbeddingsBody

CallerOf = Annotated[Caller, Depends(caller)]
ModelId = Annotated[str, Path(description="A model's id, such as `backtalk/static`.", examples=["backtalk/static"])]


def routes(models: Models, egress: Egress, embedder: Embedder) -> APIRouter:
    """`embedder` makes the vectors of `/v1/embeddings` when its own name is asked for."""
    serving = Serving(models, egress, embedder)
    api = router(tags=["Models"])

    @api.get(
        "/v1/models",
        operation_id="listModels",
        summary="List models",
        response_model=None,
        responses=answers(ModelList),
    )
    async def list_models(caller: CallerOf) -> Response:
        """Those of every model server that is connected and answers, and what is built in."""
        return JSON({"object": "list", "data": [_shown(card) for card in await serving.cards()]})

    @api.get(
        "/v1/models/{model:path}",
        operation_id="retrieveModel",
        summary="Retrieve a model",
        response_model=None,
        responses=answers(ModelObject, 404),
    )
    async def get_model(model: ModelId, caller: CallerOf) -> Response:
        return JSON(_shown(await serving.card(model)))

    @api.post(
        "/v1/embeddings",
        operation_id="createEmbeddings",
        summary="Create embeddings",
        response_model=None,
        responses=answers(EmbeddingList, 404, 429, 502),
    )
    async def create_embeddings(body: EmbeddingsBody, caller: CallerOf) -> Response:
        """Vectors of texts, whose angles tell how near their meanings are."""
        return JSON(await serving.embed(body.model_dump(exclude_unset=True)))

    return api


def _shown(card: ModelCard) -> dict[str, Any]:
    return {"id": card.id, "object": "model", "created": card.created, "owned_by": card.owned_by}
