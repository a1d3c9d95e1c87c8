"""Turns from Python, with no HTTP between: for a user's own route, job or script."""

from collections.abc import AsyncIterator
from typing import Any

from backtalk.core.errors import BacktalkError
from backtalk.domain.caller import Caller
from backtalk.domain.events import Ended
from backtalk.turn import responses_wire
from backtalk.turn.render import objects
from backtalk.turn.response import State, assemble
from backtalk.turn.run import Run
from backtalk.turn.service import Turns


class Answer(dict[str, Any]):
    """A Response object. `text` is all that the model said in it."""

    @property
    def text(self) -> str:
        parts = [part for item in self["output"] if item["type"] == "message" for part in item["content"]]
        return "".join(part["text"] for part in parts if part["type"] == "output_text")


async def respond(turns: Turns, caller: Caller, body: dict[str, Any]) -> Answer:
    """Runs a turn to its end. Raises what made it fail; whoever stops waiting stops the turn."""
    run = await _open(turns, caller, body)
    if run.request.background:
        return Answer(assemble(run.head, State(status="queued")))
    try:
        await run.ended.wait()
    finally:
        turns.runner.client_left(run)
    if run.error:
        raise run.error
    if run.state.status == "failed":
        raise BacktalkError((run.state.error or {}).get("message", "The response failed."))
    return Answer(assemble(run.head, run.state, body.get("include") or ()))


async def stream(turns: Turns, caller: Caller, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Runs a turn and yields its events as they become durable; whoever stops reading stops the turn."""
    run = await _open(turns, caller, {**body, "stream": True})
    events = turns.runner.read(run)
    try:
        async for batch in events:
            state = await run.final() if type(batch[-1]) is Ended else State()
            for event in objects(batch, run.head, state, body.get("include") or ()):
                yield event
    finally:
        await events.aclose()
        turns.runner.client_left(run)


async def _open(turns: Turns, caller: Caller, body: dict[str, Any]) -> Run:
    checked = responses_wire.read(body)
    return await turns.open(responses_wire.to_turn(checked, caller, None))
