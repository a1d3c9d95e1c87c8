"""Cursor paging as OpenAI's list endpoints do it."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import Query

T = TypeVar("T")
Order = Annotated[Literal["asc", "desc"], Query(description="Order by time of creation.")]
After = Annotated[str | None, Query(description="Exclusive cursor: the id of the last object seen.")]
Before = Annotated[str | None, Query(description="Exclusive cursor: the id of the first object seen.")]
Limit20 = Annotated[int, Query(ge=1, le=100, description="Objects on a page.")]
Limit10000 = Annotated[int, Query(ge=1, le=10_000, description="Objects on a page.")]


class Cursor(msgspec.Struct, frozen=True):
    """Where in a list, and how much of it. Stores fetch `limit + 1` rows, so that `page` knows whether more follow."""

    limit: int = 20
    order: str = "desc"
    after: str | None = None
    before: str | None = None


def page(rows: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """OpenAI's list object from up to `limit + 1` wire objects."""
    data = list(rows[:limit])
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(rows) > limit,
    }
