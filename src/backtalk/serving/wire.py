"""The body of `POST /v1/embeddings`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class EmbeddingsBody(BaseModel):
    model_config = ConfigDict(extra="allow")

    input: str | list[str] | list[int] | list[list[int]] = Field(
        description="A text, a list of texts, or token ids for upstreams that take them."
    )
    model: str = Field(description="`backtalk/static`, or a model of an upstream.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, description="Shorter vectors: cut and made unit length again.")] | None = (
        None
    )
    user: str | None = None
