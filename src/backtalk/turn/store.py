"""Responses in SQL: what was asked, what came of it, and what the prompt was made of."""

from typing import Any

import msgspec
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    String,
    bindparam,
    delete,
    insert,
    literal,
    select,
    tuple_,
    update,
)

from backtalk.conversations import store as conversations
from backtalk.domain.items import Item
from backtalk.events import store as events
from backtalk.http.paging import Cursor
from backtalk.storage.schema import Id, Json, table
from backtalk.turn.response import State

responses = table(
    "responses",
    Id("id", primary_key=True),
    Id("project", nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("background", Boolean(create_constraint=False), nullable=False),
    Id("conversation_id"),
    Id("previous_response_id"),
    Id("leaf_id"),
    Column("head", Json, nullable=False),
    Column("state", Json),
    Column("receipt", Json),
    Column("wire", String(16)),
)
Index("ix_responses_wire", responses.c.project, responses.c.wire, responses.c.created_at, responses.c.id)

RUNNING = ("queued", "in_progress")
WHOLE = ("completed", "incomplete")
"""Ended with an answer."""


class AlreadyEndedError(Exception):
    """The response has a terminal state already; the first one wins."""


class StillRunningError(Exception):
    """The response has not ended yet, so nothing can continue it."""


class Stored(msgspec.Struct):
    """A response as its row tells it."""

    head: dict[str, Any]
    state: State
    background: bool
    conversation_id: str | None
    leaf_id: str | None
    wire: str | None

    @property
    def ended(self) -> bool:
        return self.state.status not in RUNNING


class Opening(msgspec.Struct):
    """A response that begins. `parent_id` is the stored item that its input follows on."""

    project: str
    head: dict[str, Any]
    status: str
    background: bool
    conversation_id: str | None
    previous_response_id: str | None
    parent_id: str | None
    input: list[Item]
    receipt: dict[str, Any]
    wire: str


class History(msgspec.Struct):
    """What was said before. `leaf_id` is its last stored item; None where there is none."""

    items: list[Item] = []
    leaf_id: str | None = None


def create(connection: Connection, opening: Opening) -> None:
    """Inserts the response's row and its input items."""
    head = opening.head
    leaf = conversations.add_items(
        connection, opening.project, opening.input, parent_id=opening.parent_id, response_id=head["id"]
    )
    row = {
        "id": head["id"],
        "project": opening.project,
        "created_at": head["created_at"],
        "status": opening.status,
        "background": opening.background,
        "conversation_id": opening.conversation_id,
        "previous_response_id": opening.previous_response_id,
        "leaf_id": leaf,
        "head": head,
        "receipt": opening.receipt,
        "wire": opening.wire,
    }
    connection.execute(insert(responses).values(row))


def set_status(connection: Connection, project: str, response_id: str, status: str) -> None:
    """`queued` becomes `in_progress`."""
    connection.execute(update(responses).where(_is(project, response_id), _running()).values(status=status))


_MINE = (responses.c.id == bindparam("response")) & (responses.c.project == bindparam("tenant"))
_PLACE = select(responses.c.leaf_id, responses.c.conversation_id, responses.c.receipt).where(_MINE).with_for_update()
_FINISH = (
    update(responses)
    .where(_MINE, responses.c.status.in_(RUNNING))
    .values(
        status=bindparam("new_status"),
        state=bindparam("new_state"),
        receipt=bindparam("new_receipt"),
        leaf_id=bindparam("new_leaf"),
    )
)


def finish(
    connection: Connection, project: str, response_id: str, state: State, receipt: dict[str, Any] | None
) -> None:
    """Writes the terminal state once: a second one meets AlreadyEndedError and changes nothing.

    `receipt` replaces the one written at the opening, unless None.
    """
    row = connection.execute(_PLACE, {"response": response_id, "tenant": project}).one_or_none()
    ending = {
        "response": response_id,
        "tenant": project,
        "new_status": state.status,
        "new_state": msgspec.to_builtins(state),
        "new_receipt": receipt or (row and row.receipt),
        "new_leaf": state.output[-1]["id"] if state.output else row and row.leaf_id,
    }
    if row is None or connection.execute(_FINISH, ending).rowcount != 1:
        raise AlreadyEndedError(response_id)
    conversations.add_items(
        connection, project, state.output, parent_id=row.leaf_id, response_id=response_id, kind="output"
    )
    if row.conversation_id and state.status in WHOLE:
        ids = conversations.ids_of_response(connection, project, response_id)
        branched = "branch_from" in (row.receipt or {})
        conversations.append_to_conversation(connection, project, row.conversation_id, ids, branched=branched)


def add_said(
    connection: Connection, project: str, conversation_id: str, said: list[Item], parent_id: str | None, branched: bool
) -> None:
    """Puts into a conversation what no response keeps."""
    if not branched:
        parent_id = conversations.last_of_conversation(connection, project, conversation_id)
    conversations.add_items(connection, project, said, parent_id=parent_id)
    ids = [item["id"] for item in said]
    conversations.append_to_conversation(connection, project, conversation_id, ids, branched=branched)


def find(connection: Connection, project: str, response_id: str) -> Stored | None:
    row = connection.execute(select(responses).where(_is(project, response_id))).one_or_none()
    return None if row is None else _stored(row)


def _stored(row: Any) -> Stored:
    state = msgspec.convert(row.state, State) if row.state else State(status=row.status)
    return Stored(row.head, state, row.background, row.conversation_id, row.leaf_id, row.wire)


def listing(connection: Connection, project: str, cursor: Cursor, wire: str) -> list[Stored] | None:
    """Up to `limit + 1` responses that came by a wire and ended well; None for an unknown cursor."""
    query = select(responses).where(
        responses.c.project == project, responses.c.wire == wire, responses.c.status.in_(WHOLE)
    )
    place = tuple_(responses.c.created_at, responses.c.id)
    if cursor.after:
        seen = connection.execute(
            select(responses.c.created_at, responses.c.id).where(_is(project, cursor.after))
        ).one_or_none()
        if seen is None:
            return None
        at = tuple_(literal(seen.created_at), literal(seen.id))
        query = query.where(place < at if cursor.order == "desc" else place > at)
    columns = (responses.c.created_at, responses.c.id)
    ordered = query.order_by(*(column.desc() if cursor.order == "desc" else column for column in columns))
    return [_stored(row) for row in connection.execute(ordered.limit(cursor.limit + 1))]


def set_metadata(connection: Connection, project: str, response_id: str, metadata: dict[str, str]) -> bool:
    """Replaces a response's metadata; False where there is no such response."""
    query = select(responses.c.head).where(_is(project, response_id)).with_for_update()
    head = connection.execute(query).scalar_one_or_none()
    if head is None:
        return False
    changed = {**head, "metadata": metadata}
    connection.execute(update(responses).where(_is(project, response_id)).values(head=changed))
    return True


def receipt(connection: Connection, project: str, response_id: str) -> dict[str, Any] | None:
    query = select(responses.c.receipt).where(_is(project, response_id))
    found: dict[str, Any] | None = connection.execute(query).scalar_one_or_none()
    return found


def remove(connection: Connection, project: str, response_id: str) -> bool:
    """Deletes a response with its log and the items that only it held."""
    gone = connection.execute(delete(responses).where(_is(project, response_id))).rowcount == 1
    if gone:
        conversations.forget_response(connection, project, response_id)
        events.forget(connection, project, response_id)
    return gone


def history_of_response(connection: Connection, project: str, response_id: str) -> History | None:
    """All that led to a response and what it said; None when there is no such response.

    Raises StillRunningError for one that has not ended.
    """
    stored = find(connection, project, response_id)
    if stored is None:
        return None
    if not stored.ended:
        raise StillRunningError(response_id)
    return History(conversations.chain(connection, project, stored.leaf_id), stored.leaf_id)


def history_of_conversation(
    connection: Connection, project: str, conversation_id: str, leaf_id: str | None = None
) -> History | None:
    """A conversation up to `leaf_id`, by default its last item; None when there is no such conversation.

    A leaf that is not in it gives an empty history.
    """
    if conversations.find(connection, project, conversation_id) is None:
        return None
    items = conversations.branch(connection, project, conversation_id, leaf_id) or []
    return History(items, items[-1]["id"] if items else None)


def _is(project: str, response_id: str) -> Any:
    return (responses.c.id == response_id) & (responses.c.project == project)


def _running() -> Any:
    return responses.c.status.in_(RUNNING)
