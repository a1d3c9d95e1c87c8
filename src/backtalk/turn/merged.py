"""One stream made of several runs: choices of a completion side by side."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias

from backtalk.domain.events import Ended, Event
from backtalk.http.sse import DONE, Chunks
from backtalk.turn.response import State
from backtalk.turn.run import Run
from backtalk.turn.runner import Runner

_WAITING = 64
Frames: TypeAlias = Callable[[Sequence[Event], State], bytes]


async def merged(
    runner: Runner, runs: Sequence[Run], frames: Sequence[Frames], last: Callable[[Sequence[State]], bytes]
) -> Chunks:
    """What each run's `frames` makes of its events, as they come; then what `last` says of all, then [DONE].

    A run that fails stops the others: its error is the end of the stream.
    """
    chunks: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING)

    async def follow(run: Run, render: Frames) -> None:
        try:
            async for events in runner.read(run):
                state = await run.final() if type(events[-1]) is Ended else State()
                if chunk := render(events, state):
                    await chunks.put(chunk)
        finally:
            await chunks.put(None)

    tasks = [asyncio.create_task(follow(run, render)) for run, render in zip(runs, frames, strict=True)]
    try:
        going = len(tasks)
        while going:
            chunk = await chunks.get()
            if chunk is not None:
                yield chunk
                continue
            going -= 1
            if any(run.state.status == "failed" for run in runs):
                break
        if end := last([run.state for run in runs]):
            yield end
        yield DONE
    finally:
        for task in tasks:
            task.cancel()
        for run in runs:
            runner.client_left(run)
