"""Bodies of the Vector Stores API."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, FailFast, Field, StrictInt, StrictStr, model_validator

Query: TypeAlias = StrictStr | list[StrictStr]
Name = Annotated[StrictStr, Field(max_length=256, description="The store's name.")]
Metadata = Annotated[Any, Field(description="Up to 16 pairs of strings.")]
Attributes = Annotated[
    Any, Field(description="Up to 16 pairs; values are strings, numbers or booleans. Filters look at them.")
]
_ALONE = BeforeValidator(lambda query: [query] if isinstance(query, str) else query, json_schema_input_type=Query)
FileId = Annotated[StrictStr, Field(description="An uploaded file.")]


class ExpiresAfter(BaseModel):
    anchor: Literal["last_active_at"]
    days: Annotated[StrictInt, Field(ge=1, le=365)]


class StaticChunking(BaseModel):
    max_chunk_size_tokens: Annotated[StrictInt, Field(ge=100, le=4096)] = 800
    chunk_overlap_tokens: Annotated[StrictInt, Field(ge=0)] = 400

    @model_validator(mode="after")
    def _check(self) -> "StaticChunking":
        if self.chunk_overlap_tokens > self.max_chunk_size_tokens // 2:
            raise ValueError("'chunk_overlap_tokens' must not exceed half of 'max_chunk_size_tokens'.")
        return self


class Chunking(BaseModel):
    """How files are cut: `auto` is 800 tokens with 400 shared."""

    type: Literal["auto", "static"]
    static: StaticChunking | None = None

    @model_validator(mode="after")
    def _check(self) -> "Chunking":
        if self.type == "static" and self.static is None:
            raise ValueError("Missing required parameter: 'static', which goes with the type 'static'.")
        return self


class CreateStore(BaseModel, json_schema_extra={"examples": [{"name": "Handbook"}]}):
    """All of it may be left out."""

    name: Name | None = None
    metadata: Metadata = None
    file_ids: Annotated[list[FileId], Field(max_length=500)] | None = None
    chunking_strategy: Chunking | None = None
    expires_after: ExpiresAfter | None = None


class UpdateStore(BaseModel, json_schema_extra={"examples": [{"name": "Handbook", "metadata": {"team": "people"}}]}):
    """What to change."""

    name: Name | None = None
    metadata: Metadata = None
    expires_after: ExpiresAfter | None = None


class AttachFile(BaseModel, json_schema_extra={"examples": [{"file_id": "file-…", "attributes": {"year": 2026}}]}):
    """An uploaded file, and what filters shall know of it."""

    file_id: FileId
    attributes: Attributes = None
    chunking_strategy: Chunking | None = None


class SetAttributes(BaseModel, json_schema_extra={"examples": [{"attributes": {"year": 2026}}]}):
    """The attributes from now on."""

    attributes: Attributes


class CreateBatch(BaseModel, json_schema_extra={"examples": [{"file_ids": ["file-…"]}]}):
    """Uploaded files."""

    file_ids: Annotated[list[FileId], Field(min_length=1, max_length=2000)] | None = None
    files: Annotated[list[AttachFile], Field(min_length=1, max_length=2000)] | None = None
    attributes: Attributes = None
    chunking_strategy: Chunking | None = None

    @model_validator(mode="after")
    def _check(self) -> "CreateBatch":
        if (self.file_ids is None) == (self.files is None):
            raise ValueError("Give either 'file_ids' or 'files'.")
        return self


class RankingOptions(BaseModel, extra="allow"):
    ranker: Literal["none", "auto", "default-2024-11-15", "default_2024_08_21"] | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    hybrid_search: Any = Field(default=None, description="`{embedding_weight, text_weight}`.")


class Search(BaseModel, json_schema_extra={"examples": [{"query": "How many days of paid leave?"}]}):
    """What to look for, and where."""

    query: Annotated[list[StrictStr], FailFast(), _ALONE, Field(description="What to look for; several are merged.")]
    max_num_results: Annotated[StrictInt, Field(ge=1, le=50)] = 10
    filters: Any = Field(default=None, description="A comparison of an attribute, or `and`/`or` of filters.")
    ranking_options: RankingOptions | None = None
    rewrite_query: bool = Field(default=False, description="Accepted; queries are searched as they are.")
