"""Bodies of the Conversations API."""

from typing import Any

from pydantic import BaseModel, Field

_ITEMS: dict[str, Any] = {"examples": [[{"type": "message", "role": "user", "content": "Hello!"}]]}


class CreateConversation(BaseModel, json_schema_extra={"examples": [{"metadata": {"topic": "demo"}}]}):
    """All of it may be left out."""

    items: list[Any] | None = Field(default=None, description="Up to 20 items to begin with.", json_schema_extra=_ITEMS)
    metadata: Any = Field(default=None, description="Up to 16 pairs of strings.")


class UpdateConversation(BaseModel, json_schema_extra={"examples": [{"metadata": {"topic": "project-x"}}]}):
    """What to change."""

    metadata: Any = Field(description="Replaces the metadata: up to 16 pairs of strings.")


class AddItems(BaseModel):
    """What to append."""

    items: list[Any] = Field(description="Up to 20 items to append.", json_schema_extra=_ITEMS)
