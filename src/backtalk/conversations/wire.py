"""Bodies of the Conversations API."""

from typing import Any

from pydantic import BaseModel, Field

_ITEMS: dict[str, Any] = {"examples": [[{"type": "message", "role": "user", "content": "Hello!"}]]}


class CreateConversation(BaseModel):
    items: list[Any] | None = Field(default=None, description="Up to 20 items to begin with.", json_schema_extra=_ITEMS)
    metadata: Any = Field(default=None, description="Up to 16 pairs of strings.")


class UpdateConversation(BaseModel):
    metadata: Any = Field(description="Replaces the metadata: up to 16 pairs of strings.")


class AddItems(BaseModel):
    items: list[Any] = Field(description="Up to 20 items to append.", json_schema_extra=_ITEMS)
