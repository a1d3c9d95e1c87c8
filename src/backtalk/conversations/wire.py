"""Bodies of the Conversations API."""

from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

_ITEMS: dict[str, Any] = {"examples": [[{"type": "message", "role": "user", "content": "Hello!"}]]}


def _storable(title: str) -> str:
    """PostgreSQL's text cannot hold a NUL."""
    if "\0" in title:
        raise ValueError("'title' contains a NUL character.")
    return title


Title: TypeAlias = Annotated[str, StringConstraints(strip_whitespace=True, max_length=512), AfterValidator(_storable)]


class CreateConversation(
    BaseModel, json_schema_extra={"examples": [{"metadata": {"topic": "demo"}, "title": "A demonstration"}]}
):
    """All of it may be left out."""

    items: list[Any] | None = Field(default=None, description="Up to 20 items to begin with.", json_schema_extra=_ITEMS)
    metadata: Any = Field(default=None, description="Up to 16 pairs of strings.")
    title: Title | None = Field(default=None, description="Without one, the first user message makes it.")


class UpdateConversation(
    BaseModel, json_schema_extra={"examples": [{"metadata": {"topic": "project-x"}}, {"title": "Project X"}]}
):
    """What to change, one at least; what is left out stays."""

    metadata: Any = Field(default=None, description="Replaces the metadata: up to 16 pairs of strings.")
    title: Title | None = Field(
        default=None, description="Replaces the title. After null, the first user message makes it at the next append."
    )


class AddItems(BaseModel):
    """What to append."""

    items: list[Any] = Field(description="Up to 20 items to append.", json_schema_extra=_ITEMS)
    parent_id: str | None = Field(
        default=None,
        description="Begins a branch: the items follow on this item of the conversation; with null, on nothing. "
        "Left out, they follow on what was appended last.",
    )
