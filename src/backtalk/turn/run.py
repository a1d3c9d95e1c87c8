"""A run: one response in progress, and what bounds it."""

import asyncio
from typing import Any

import msgspec

from backtalk.core.errors import BacktalkError
from backtalk.domain.model import Model, Usage
from backtalk.domain.turn import TurnRequest
from backtalk.events import Writer
from backtalk.events.log import EphemeralWriter
from backtalk.turn.output import Output
from backtalk.turn.response import State
from backtalk.turn.tool_loop import custom_tools, namespaces, server_tools


class Limits(msgspec.Struct, frozen=True):
    """What bounds a run. Times in seconds."""

    context_tokens: int = 128_000
    tool_rounds: int = 8
    tool_timeout: float = 30.0
    source_timeout: float = 2.0
    runs: int = 1000


class Run:
    """A response in progress, and for a while after."""

    def __init__(self, request: TurnRequest, head: dict[str, Any], model: Model, model_name: str) -> None:
        self.request = request
        self.head = head
        self.model = model
        self.model_name = model_name
        self.state = State(status="queued" if request.background else "in_progress")
        self.error: BacktalkError | None = None
        self.usage = Usage()
        self.answered = 0  # tokens of output that belong to the answer, and to no summary before it
        self.service_tier: str | None = None
        self.served_by: str | None = None  # the model that answered, where the one that was asked stands for others
        self.receipt: dict[str, Any] = {}
        self.output = Output(
            server_tools=server_tools(request),
            custom_tools=custom_tools(request),
            namespaces=namespaces(request),
            parallel=request.parallel_tool_calls,
        )
        self.writer: Writer | EphemeralWriter
        self.ended = asyncio.Event()
        self.stopping: tuple[str, str | None] | None = (
            None  # the status and reason to end with, once it is told to stop
        )
        self.runaway = False  # it has called tools as often as it may, and has nothing to say even so
        self.ending = False  # the terminal event is on its way to the log: the first one wins
        self.task: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return str(self.head["id"])

    def spent(self, usage: Usage) -> None:
        """Counts what a step of the model's cost."""
        self.usage.add(usage)
        self.answered += usage.output_tokens

    def stop(self, status: str, reason: str | None = None) -> None:
        """Tells the run to end now, with this status; the model server's connection is closed at once."""
        if self.stopping is None and not self.ending:
            self.stopping = (status, reason)
            if self.task:
                self.task.cancel()

    async def final(self) -> State:
        """The terminal state."""
        await self.ended.wait()
        return self.state
