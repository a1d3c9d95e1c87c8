"""The body of `POST /v1/embeddings`."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

_INPUT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}


def _text_or_list(value: Any) -> Any:
    """A union would name its members in the error's path; the service looks into lists."""
    if not isinstance(value, str | list):
        raise ValueError("'input' must be a string or a list of strings.")
    return value


class EmbeddingsBody(BaseModel):
    """Texts in, vectors out."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"model": "backtalk/static", "input": "The food was delicious."}]},
    )

    input: Annotated[Any, AfterValidator(_text_or_list), WithJsonSchema(_INPUT)] = Field(
        description="A text, a list of texts, or token ids for upstreams that take them."
    )
    model: str = Field(description="`backtalk/static`, or a model of an upstream.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1, description="Shorter vectors: cut and made unit length again.")
    user: str | None = None
