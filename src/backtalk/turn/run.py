"""A run: one response in progress, and what bounds it."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from backtalk.core.errors import BacktalkError
from backtalk.domain.model import Model, Usage
from backtalk.domain.turn import TurnRequest
from backtalk.events import Writer
from backtalk.events.log import EphemeralWriter
from backtalk.turn.output import Output
from backtalk.turn.response import State
from backtalk.turn.tool_loop import custom_tools, namespaces, server_tools

Price: TypeAlias = Callable[[str, Usage], float | None]
"""What some usage of a model costs, in USD; None where nobody knows."""


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
        self.elsewhere: list[tuple[str, Usage]] = []  # what steps cost that others answered
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

    def spent(self, usage: Usage, model_id: str | None = None) -> None:
        """Counts what a step cost, of the model that answered where the one that was asked stands for others."""
        self.usage.add(usage)
        self.answered += usage.output_tokens
        if model_id:
            self.elsewhere.append((model_id, usage))

    def cost(self, price: Price) -> float | None:
        """What it cost in USD; None where nobody knows the price of all of it."""
        server = getattr(self.model, "server", None)
        names = [f"{server.upstream.name}/{self.model_name}"] if server else []
        rest = Usage(*(getattr(self.usage, name) for name in Usage.__struct_fields__))
        for _, usage in self.elsewhere:
            rest.subtract(usage)
        costs = [price(model_id, usage) for model_id, usage in self.elsewhere]
        if not self.elsewhere or rest != Usage():
            known = [cost for name in [*names, self.head["model"]] if (cost := price(name, rest)) is not None]
            costs.append(known[0] if known else None)
        return None if None in costs else sum(cost for cost in costs if cost is not None)

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
