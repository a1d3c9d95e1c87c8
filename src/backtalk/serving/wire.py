"""The bodies of `POST /v1/embeddings`, `/v1/rerank` and `/v1/moderations`."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr, WithJsonSchema

from backtalk.core.errors import InvalidRequest

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_INPUT = {
    "anyOf": [
        _TEXT,
        _TEXTS,
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}
_DOCUMENT = {
    "anyOf": [_TEXT, {"type": "object", "properties": {"text": _TEXT}, "additionalProperties": True}],
}
_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": _TEXT},
    "required": ["type", "text"],
}
_IMAGE_PART = {
    "type": "object",
    "properties": {
        "type": {"const": "image_url"},
        "image_url": {"type": "object", "properties": {"url": _TEXT}, "required": ["url"]},
    },
    "required": ["type", "image_url"],
}
_MODERATED = {"anyOf": [_TEXT, _TEXTS, {"type": "array", "items": {"anyOf": [_TEXT_PART, _IMAGE_PART]}}]}
MOST_DOCUMENTS = 1000
LONGEST_QUERY = 32_768
MOST_MODERATED = 2048


def _text_or_list(value: Any) -> Any:
    """A union would name its members in the error's path; the service looks into lists."""
    if not isinstance(value, str | list):
        raise ValueError("'input' must be a string or a list of strings.")
    return value


def _moderated(value: Any) -> Any:
    """A text, or texts, or parts. Raises InvalidRequest with the exact parameter, which a union could not name."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _refuse("input", "must be a string or a list of strings or of parts", "invalid_type")
    if not 1 <= len(value) <= MOST_MODERATED:
        raise _refuse("input", f"must have 1 to {MOST_MODERATED:,} entries")
    texts = isinstance(value[0], str)
    for place, entry in enumerate(value):
        if isinstance(entry, str) != texts:
            raise _refuse(f"input[{place}]", "must be of one kind with the others: strings or parts", "invalid_type")
        if not texts:
            _check_part(entry, f"input[{place}]")
    return value


def _check_part(part: Any, place: str) -> None:
    if not isinstance(part, dict):
        raise _refuse(place, "must be a string or a part", "invalid_type")
    kind = part.get("type")
    if kind == "text":
        _check_text(part, "text", place)
    elif kind == "image_url":
        if not isinstance(part.get("image_url"), dict):
            raise _refuse(f"{place}.image_url", "must be an object with a 'url'", "invalid_type")
        _check_text(part["image_url"], "url", f"{place}.image_url")
    else:
        raise _refuse(f"{place}.type", "must be 'text' or 'image_url'")


def _check_text(holder: dict[str, Any], key: str, place: str) -> None:
    if not isinstance(holder.get(key), str):
        raise _refuse(f"{place}.{key}", "must be a string", "invalid_type")


def _refuse(param: str, problem: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"'{param}' {problem}.", param=param, code=code)


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


class RerankBody(BaseModel):
    """A query and documents in, their order out."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "model": "backtalk/static",
                    "query": "How many days of paid leave?",
                    "documents": ["The garage closes at 22:00.", "Every employee has 28 days of paid leave a year."],
                    "top_n": 1,
                    "return_documents": True,
                }
            ]
        },
    )

    model: StrictStr | None = Field(
        default=None, description="`backtalk/static`, which is the default, or a model of an upstream."
    )
    query: StrictStr = Field(min_length=1, max_length=LONGEST_QUERY, description="What the documents shall answer.")
    documents: Annotated[
        list[Annotated[Any, WithJsonSchema(_DOCUMENT)]], Field(min_length=1, max_length=MOST_DOCUMENTS)
    ] = Field(description="Texts, or objects with a `text`.")
    top_n: int | None = Field(default=None, ge=1, strict=True, description="How many of the best; all by default.")
    return_documents: bool | None = Field(
        default=None, strict=True, description="Give the texts back, too. `backtalk/static` does not by default."
    )


class ModerationsBody(BaseModel):
    """Texts or images in, judgements out."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"input": "I want to hug you all."}]})

    input: Annotated[Any, AfterValidator(_moderated), WithJsonSchema(_MODERATED)] = Field(
        description="A text, a list of texts, or a list of parts: texts and images."
    )
    model: StrictStr | None = Field(
        default=None, description="A model of an upstream. Default: what OpenAI has, or else the first upstream."
    )
