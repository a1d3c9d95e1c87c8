"""What `/v1/models` and `/v1/embeddings` answer, for `/openapi.json`."""

from typing import Literal

from msgspec import Struct


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


ANSWERS = (ModelList, EmbeddingList)
