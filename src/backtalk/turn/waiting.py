"""What the routes of all wires do around a run: they wait for its end, and tell the log of requests of it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from backtalk.core.errors import BacktalkError, Overloaded
from backtalk.domain.model import Usage
from backtalk.http.access_log import TurnFacts
from backtalk.http.sse import is_left
from backtalk.turn.run import Run
from backtalk.turn.runner import SERVER_RESTARTED
from backtalk.turn.service import Turns

T = TypeVar("T")


def request_id(request: Request) -> str | None:
    """The id that the request was given."""
    state: dict[str, Any] = request.scope.get("state", {})
    return state.get("request_id")


def record(request: Request, *runs: Run) -> None:
    """Lets the log of requests tell of this turn; what it cost is asked for when the request is over."""

    def facts() -> TurnFacts:
        spent = Usage()
        for run in runs:
            spent.add(run.usage)
        began = [run.output.first_at for run in runs if run.output.first_at]
        costs = [run.state.cost_usd for run in runs if run.state.cost_usd is not None]
        return TurnFacts(
            runs[0].head["model"],
            spent.input_tokens,
            spent.output_tokens,
            min(began, default=None),
            sum(costs) if costs else None,
        )

    request.scope["state"]["turn"] = facts


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is cancelled when the client leaves, which nobody hears of then."""
    task = asyncio.ensure_future(work)
    if await is_left(request.receive, task):
        task.cancel()
        await asyncio.wait((task,))
        raise Overloaded("The client has left.")
    return await task


def leave(turns: Turns, *runs: Run) -> None:
    """The client has gone."""
    for run in runs:
        turns.runner.client_left(run)


async def ended(request: Request, turns: Turns, *runs: Run) -> None:
    """Waits for the end of runs while a client waits for one JSON answer. A client that leaves stops them.

    Raises what made one fail, so that the client sees a status and may retry.
    """
    waiting = asyncio.ensure_future(asyncio.gather(*(run.ended.wait() for run in runs)))
    try:
        if await is_left(request.receive, waiting):
            leave(turns, *runs)
            await waiting
    finally:
        waiting.cancel()
    for run in runs:
        _check(run)


def _check(run: Run) -> None:
    if run.error:
        raise run.error
    if run.state.reason == SERVER_RESTARTED:
        raise Overloaded("The server stopped before the response was complete; try again in a moment.")
    if run.state.status == "failed":
        raise BacktalkError((run.state.error or {}).get("message", "The response failed."))
