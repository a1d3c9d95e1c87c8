"""Runs: each response is driven by one task that owns its log's lease, whoever is or is not listening."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from backtalk.core.clock import now
from backtalk.core.errors import BacktalkError, Overloaded
from backtalk.core.ids import new_id
from backtalk.domain.caller import Caller
from backtalk.domain.events import TERMINAL, Event
from backtalk.domain.items import Item
from backtalk.domain.model import Model, Prompt, Usage
from backtalk.domain.turn import TurnRequest
from backtalk.events import Fenced, Log, Tail, Writer, batches, ephemeral
from backtalk.events.log import Dead, EphemeralWriter
from backtalk.storage import Connection, Storage
from backtalk.storage.once import once
from backtalk.turn import store
from backtalk.turn.compaction import Summarising, compact, nothing_to_compact, stays
from backtalk.turn.loop import Loop
from backtalk.turn.opening import Opener
from backtalk.turn.output import Output
from backtalk.turn.response import State, error_object, usage_object
from backtalk.turn.run import Limits, Price, Run
from backtalk.turn.store import AlreadyEndedError, History, Opening

log = logging.getLogger("backtalk.turn")

RECOVER_SECONDS = 5.0
SERVER_RESTARTED = "server_restarted"
"""Our own reason for a response that ended because its process did."""
MAX_STEPS = "max_steps"
"""Our own reason for a response whose model never stopped calling tools."""
LET_GO_SECONDS = 30.0
"""How long to wait until another process has ended a run: more than a lease and a look for the dead."""


class Resolve(Protocol):
    """How a model id becomes a model: (the model, its name at its server, its canonical id). Raises ModelNotFound."""

    async def __call__(self, model_id: str | None, /) -> tuple[Model, str, str]: ...


class Runner:
    """Starts runs, stops them, and ends those that a dead process left behind."""

    def __init__(
        self,
        storage: Storage,
        log: Log,
        resolve: Resolve,
        opener: Opener,
        loop: Loop,
        limits: Limits,
        price: Price = lambda model_id, usage: None,
    ) -> None:
        self.opener = opener
        self._storage = storage
        self._log = log
        self._resolve = resolve
        self._loop = loop
        self._limits = limits
        self._price = price
        self._runs: dict[str, Run] = {}
        self._opening = 0
        self._recovering: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Ends what a dead process left open, now and from then on."""
        await self.recover()
        self._recovering = asyncio.create_task(self._recover_for_ever())

    async def stop(self, grace: float = 5.0) -> None:
        """Ends all runs: a foreground one's client is gone by now, a background one cannot outlive its process."""
        self._stopping = True
        if self._recovering:
            self._recovering.cancel()
        for run in list(self._runs.values()):
            run.stop("failed", SERVER_RESTARTED)
        tasks = [run.task for run in self._runs.values() if run.task]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)

    # ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self, request: TurnRequest) -> Run:
        """Starts a run; when this returns, its first events are in the log. Raises for what a client did wrong."""
        self._check_room()
        self._opening += 1
        try:
            return await self._open(request)
        finally:
            self._opening -= 1

    async def _open(self, request: TurnRequest) -> Run:
        model, model_name, model_id = await self._resolve(request.model)
        history = await self.opener.settle(request)
        request.head |= {"id": request.head.get("id") or new_id("resp"), "created_at": now(), "model": model_id}
        run = Run(request, request.head, model, model_name)
        talk = self.opener.live(request, history)
        if request.compact and not talk:
            raise nothing_to_compact()
        long = talk if self.opener.too_long(request, talk) else None
        fitted = await (self.opener.fit_later(request, model) if long else self.opener.fit(request, model, talk))
        run.receipt = self.opener.receipt(run.id, fitted, request)
        prompt = self.opener.prompt(request, model_name, fitted)
        await self._open_log(run, history)
        self._runs[run.id] = run
        run.task = asyncio.create_task(self._drive(run, prompt, long))
        return run

    async def count_input(self, request: TurnRequest) -> int:
        """The tokens that a turn's prompt would have, as we estimate them. Raises as `open` does."""
        model, _, _ = await self._resolve(request.model)
        return await self.opener.count(request, model)

    async def compact(self, request: TurnRequest, usage: Usage) -> tuple[list[Item], Item]:
        """What stays of a talk, and the compaction item that stands for the rest. `usage` is what it costs."""
        self._check_room()
        self._opening += 1
        try:
            model, model_name, _ = await self._resolve(request.model)
            talk = self.opener.live(request, await self.opener.settle(request))
            if not talk:
                raise nothing_to_compact()
            how = Summarising(model, model_name, self._limits.context_tokens, request.instructions, usage)
            item, _ = await compact(how, talk, users=True)
            return [said for said in talk if stays(said, users=True)], item
        finally:
            self._opening -= 1

    def _check_room(self) -> None:
        if len(self._runs) + self._opening >= self._limits.runs:
            raise Overloaded("Too many responses are in progress here; try again in a moment.")

    async def _open_log(self, run: Run, history: History) -> None:
        request, output = run.request, run.output
        events = output.lifecycle("response.created", run.state.status)
        if request.background:
            events += output.lifecycle("response.queued", "queued")
        else:
            events += output.lifecycle("response.in_progress", "in_progress")
        if not request.store:
            run.writer = ephemeral()
            await run.writer.append(events)
            return
        opening = Opening(
            project=request.caller.project,
            head=run.head,
            status=run.state.status,
            background=request.background,
            conversation_id=request.conversation_id,
            previous_response_id=request.previous_response_id,
            parent_id=history.leaf_id,
            input=request.input,
            receipt=run.receipt,
            wire=request.wire,
        )
        create = once(lambda connection: store.create(connection, opening), response_id=run.id)
        run.writer = await self._log.open(request.caller.project, run.id, events, create)
        run.writer.on_lost = lambda: run.stop("failed", "lease_lost")

    # ── driving ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _drive(self, run: Run, prompt: Prompt, long: list[Item] | None) -> None:
        """The run's task: whatever happens, the response ends, or its lease is given up for another to end it."""
        try:
            if run.state.status == "queued":
                await self._begin_background(run)
            if run.request.generate:
                await self._loop.work(run, prompt, long)
            await self._finish(run, _outcome(run))
        except asyncio.CancelledError:
            status, reason = run.stopping or ("failed", SERVER_RESTARTED)
            await self._end_stopped(run, status, reason)
        except (Fenced, AlreadyEndedError):
            await self._let_go(run)
        except Exception as error:
            await self._end_failed(run, error)
        finally:
            self._runs.pop(run.id, None)
            run.ended.set()

    async def _begin_background(self, run: Run) -> None:
        run.state.status = "in_progress"
        project, response_id = run.request.caller.project, run.id
        events = run.output.lifecycle("response.in_progress", "in_progress")
        await run.writer.append(
            events, also=lambda connection: store.set_status(connection, project, response_id, "in_progress")
        )

    # ── ending ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _finish(self, run: Run, state: State) -> None:
        await self._end(run, run.output.close("completed" if state.status == "completed" else "incomplete"), state)

    async def _end_failed(self, run: Run, error: Exception) -> None:
        if run.stopping:  # the model broke while it was being closed
            await self._end_stopped(run, *run.stopping)
            return
        if not isinstance(error, BacktalkError):
            log.error("response %s failed", run.id, exc_info=error)
            error = BacktalkError("The server made a mistake and has logged it.")
        run.error = error
        body, reason = error_object(error)
        await self._end_or_abandon(run, State(status="failed", error=body, reason=reason))

    async def _end_stopped(self, run: Run, status: str, reason: str | None) -> None:
        error = None
        if status == "failed":
            error = {"code": "server_error", "message": "The server stopped before the response was complete."}
        await self._end_or_abandon(run, State(status=status, error=error, reason=reason))

    async def _end_or_abandon(self, run: Run, state: State) -> None:
        """Writes the end, unless one was tried already: after one that could not be stored, numbers would be missing."""
        try:
            if not run.ending:
                await self._end(run, run.output.close("incomplete"), state)
                return
        except (Fenced, AlreadyEndedError):
            pass
        except Exception:
            log.exception("the end of response %s could not be stored; it will be recovered", run.id)
        await self._let_go(run)

    async def _let_go(self, run: Run) -> None:
        """Gives up a run that another process has ended, or will end when its lease has run out: the log tells how."""
        run.writer.abandon()
        if self._stopping:
            return
        try:
            async with asyncio.timeout(LET_GO_SECONDS):
                async for _ in self.read(run):
                    pass
            stored = await self._storage.read(store.find, run.request.caller.project, run.id)
            run.state = stored.state if stored else run.state
        except BacktalkError as error:  # deleted, or the database is away
            run.error = run.error or error
        except TimeoutError:
            run.error = run.error or Overloaded("The end of the response could not be stored yet; read it again later.")

    async def _end(self, run: Run, events: list[Event], state: State) -> None:
        state.output = run.output.items
        state.usage = usage_object(run.usage)
        state.service_tier, state.served_by = run.service_tier, run.served_by
        state.cost_usd = run.cost(self._price)
        state.completed_at = now() if state.status == "completed" else None
        run.state = state
        run.ending = True
        events += run.output.end(TERMINAL.get(state.status, ""))
        run.receipt["input_tokens"] = run.usage.input_tokens
        if not run.request.store:
            await self._add_to_conversation(run.request, state)
        await run.writer.append(events, also=self._finisher(run.request.caller.project, run.id, state, run.receipt))

    async def _add_to_conversation(self, request: TurnRequest, state: State) -> None:
        """What was said belongs to its conversation, also where the response is not to be kept."""
        if request.conversation_id and state.status in store.WHOLE:
            said = [*request.input, *state.output]
            project, parent, branched = request.caller.project, request.branch_from, request.branched
            await self._storage.write(store.add_said, project, request.conversation_id, said, parent, branched)

    @staticmethod
    def _finisher(
        project: str, response_id: str, state: State, receipt: dict[str, Any] | None
    ) -> Callable[[Connection], None]:
        return lambda connection: store.finish(connection, project, response_id, state, receipt)

    # ── reading and stopping ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def running(self) -> int:
        """How many runs this process drives now."""
        return len(self._runs)

    def live(self, caller: Caller, response_id: str) -> Run | None:
        """The run of a response, while this process drives it."""
        run = self._runs.get(response_id)
        return run if run and run.request.caller.project == caller.project else None

    def follow(self, run: Run) -> AsyncGenerator[list[Event] | Tail, None]:
        """A run's events as they become readable."""
        if isinstance(run.writer, EphemeralWriter):
            return run.writer.follow()
        return self._log.follow(run.request.caller.project, run.id)

    def read(self, run: Run) -> AsyncGenerator[list[Event], None]:
        """The same, for who takes events and nothing else."""
        return batches(self.follow(run))

    def client_left(self, run: Run) -> None:
        """A foreground run's client went away: nobody waits for the rest."""
        if not run.request.background:
            run.stop("incomplete", "client_disconnected")

    # ── recovery ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _recover_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RECOVER_SECONDS)
            try:
                await self.recover()
            except Exception:
                log.exception("could not look for responses of dead processes")

    async def cancel_elsewhere(self, caller: Caller, response_id: str) -> None:
        """Cancels a response that another process drives: takes its log over, which fences that process off."""
        running = await self._log.find_running(caller.project, response_id)
        writer = await self._log.take_over(running) if running else None
        if running and writer:
            await self._end_orphan(running, writer, State(status="cancelled"))

    async def recover(self) -> None:
        """Ends the responses whose process died: what was shown is kept, the broken step is `failed`."""
        for dead in await self._log.find_dead():
            try:
                await self._recover_one(dead)
            except Exception:
                log.exception("response %s of a dead process could not be ended yet", dead.response_id)

    async def _recover_one(self, dead: Dead) -> None:
        writer = await self._log.take_over(dead)
        if writer:
            error = {"code": "server_error", "message": "The server restarted before the response was complete."}
            await self._end_orphan(dead, writer, State(status="failed", error=error, reason=SERVER_RESTARTED))

    async def _end_orphan(self, dead: Dead, writer: Writer, state: State) -> None:
        """Ends a response that no task of ours drives; what its log holds is its output."""
        output = Output.replay(await self._log.events(dead.project, dead.response_id))
        events = output.close("incomplete")
        state.output = output.items
        also = self._finisher(dead.project, dead.response_id, state, None)
        try:
            await writer.append(events + output.end(TERMINAL.get(state.status, "")), also=also)
        except (Fenced, AlreadyEndedError):
            log.info("response %s was ended by another process", dead.response_id)


def _outcome(run: Run) -> State:
    """How a run that was not disturbed ends."""
    if run.runaway:
        return State(status="incomplete", reason=MAX_STEPS)
    reason = run.output.finish.reason if run.output.finish else "stop"
    if reason in ("length", "content_filter"):
        told = "max_output_tokens" if reason == "length" else reason
        return State(status="incomplete", incomplete_details={"reason": told})
    return State(status="completed")
