"""What the model list, embeddings, reranking and moderations answer, for `/openapi.json`."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class ModelObject(Struct):
    """A model that can be called, by `upstream/name` or by the name alone."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Struct):
    """All models."""

    object: Literal["list"]
    data: list[ModelObject]


class Embedding(Struct):
    """A vector: floats, or with `encoding_format: base64` little-endian 32-bit floats in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(Struct):
    """A vector for each input, in their order."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: dict[str, int]


class RankedText(Struct):
    """A document as it was given."""

    text: str


class RankedDocument(Struct):
    """A document's place in `documents`, and how well it answers, 0..1."""

    index: int
    relevance_score: float
    document: RankedText | UnsetType = UNSET


class Ranking(Struct):
    """The documents that answer best, the best first."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: dict[str, int]


class Moderation(Struct):
    """What one input was taken for: by category whether it is flagged, and how sure the model is, 0..1."""

    flagged: bool
    categories: dict[str, bool | None]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]] | UnsetType = UNSET


class ModerationResults(Struct):
    """A judgement of each input, in their order."""

    id: str
    model: str
    results: list[Moderation]


ANSWERS = (ModelList, EmbeddingList, Ranking, ModerationResults)
