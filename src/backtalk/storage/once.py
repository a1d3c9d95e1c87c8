"""What is to be written together with the first thing that a request makes.

A request that carries an idempotency key has to know after a crash whether it was carried out. So whoever makes
something wraps its transaction function in `once`, and the key's mark goes into the same transaction.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar

from sqlalchemy import Connection

P = ParamSpec("P")
T = TypeVar("T")
Mark: TypeAlias = Callable[[Connection, str | None], None]
"""Writes that the request was carried out, and the id of the response that it made, if it is one."""
_marks: ContextVar[list[Mark] | None] = ContextVar("marks", default=None)


@contextmanager
def marking(mark: Mark) -> Iterator[None]:
    """Within the block, `mark` is written with the first `once`."""
    token = _marks.set([mark])
    try:
        yield
    finally:
        _marks.reset(token)


def once(
    function: Callable[Concatenate[Connection, P], T], *, response_id: str | None = None
) -> Callable[Concatenate[Connection, P], T]:
    """The transaction function, with the request's mark if it has one that is not written yet."""
    marks = _marks.get()
    if not marks:
        return function
    mark = marks.pop()

    def marked(connection: Connection, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result = function(connection, *args, **kwargs)
        mark(connection, response_id)
        return result

    return marked
