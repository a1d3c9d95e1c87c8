"""Objects of your own: a Pydantic model becomes a REST collection, stored, paged, filtered, and found by retrieval."""

from typing import Literal

from pydantic import BaseModel, Field

from backtalk import Backtalk


class Note(BaseModel):
    """Something worth keeping."""

    title: str = Field(min_length=1, max_length=200, examples=["The garage"])
    text: str = ""
    status: Literal["open", "done"] = "open"
    stars: int = Field(default=0, ge=0, le=5)
    tags: list[str] = []


app = Backtalk()
app.resource("notes", Note, searchable=True)
