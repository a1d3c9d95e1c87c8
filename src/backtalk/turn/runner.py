"""Runs: each response is driven by one task that owns its log's lease, whoever is or is not listening."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol

import msgspec

from backtalk.conversations import store as conversations
from backtalk.conversations.service import with_id
from backtalk.core.clock import now
from backtalk.core.errors import BacktalkError, InvalidRequest, NotFound, Overloaded
from backtalk.core.ids import new_id
from backtalk.core.text import estimate_tokens
from backtalk.domain.caller import Caller
from backtalk.domain.events import TERMINAL, Event
from backtalk.domain.items import Item, text_of
from backtalk.domain.model import Model, Prompt, Usage
from backtalk.domain.turn import ContextSource, SearchFiles, TurnRequest
from backtalk.events import Fenced, Log, Tail, Writer, batches, ephemeral
from backtalk.events.log import Dead, EphemeralWriter
from backtalk.storage import Connection, Storage
from backtalk.turn import store
from backtalk.turn.budget import Fitted, fit, tokens_of
from backtalk.turn.context import gather, receipt, with_pieces
from backtalk.turn.output import Output
from backtalk.turn.response import State, error_object, usage_object
from backtalk.turn.store import AlreadyEndedError, History, Opening, StillRunningError
from backtalk.turn.tool_loop import FileSearch, model_tool_choice, model_tools, search_receipt, server_tools

log = logging.getLogger("backtalk.turn")

RECOVER_SECONDS = 5.0
SERVER_RESTARTED = "server_restarted"
"""Our own reason for a response that ended because its process did."""
LET_GO_SECONDS = 30.0
"""How long to wait until another process has ended a run: more than a lease and a look for the dead."""


class Resolve(Protocol):
    """How a model id becomes a model: (the model, its name at its server, its canonical id). Raises ModelNotFound."""

    async def __call__(self, model_id: str | None, /) -> tuple[Model, str, str]: ...


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
        self.receipt: dict[str, Any] = {}
        self.output = Output(server_tools=server_tools(request), parallel=request.parallel_tool_calls)
        self.writer: Writer | EphemeralWriter
        self.ended = asyncio.Event()
        self.stopping: tuple[str, str | None] | None = (
            None  # the status and reason to end with, once it is told to stop
        )
        self.ending = False  # the terminal event is on its way to the log: the first one wins
        self.task: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return str(self.head["id"])

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


class Runner:
    """Starts runs, stops them, and ends those that a dead process left behind."""

    def __init__(
        self,
        storage: Storage,
        log: Log,
        resolve: Resolve,
        search: SearchFiles,
        limits: Limits,
        sources: Sequence[ContextSource] = (),
    ) -> None:
        self._storage = storage
        self._log = log
        self._resolve = resolve
        self._file_search = FileSearch(search, limits.tool_timeout)
        self._limits = limits
        self._runs: dict[str, Run] = {}
        self._opening = 0
        self._recovering: asyncio.Task[None] | None = None
        self._stopping = False
        self.sources = list(sources)

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
        if len(self._runs) + self._opening >= self._limits.runs:
            raise Overloaded("Too many responses are in progress here; try again in a moment.")
        self._opening += 1
        try:
            return await self._open(request)
        finally:
            self._opening -= 1

    async def _open(self, request: TurnRequest) -> Run:
        model, model_name, model_id = await self._resolve(request.model)
        history = await self._settle_input(request)
        request.head |= {"id": request.head.get("id") or new_id("resp"), "created_at": now(), "model": model_id}
        run = Run(request, request.head, model, model_name)
        prompt = await self._prompt(run, history)
        await self._open_log(run, history)
        self._runs[run.id] = run
        run.task = asyncio.create_task(self._drive(run, prompt))
        return run

    async def count_input(self, request: TurnRequest) -> int:
        """The tokens that a turn's prompt would have, as we estimate them. Raises as `open` does."""
        await self._resolve(request.model)
        fitted = await self._fit(request, await self._settle_input(request))
        tools = "".join(msgspec.json.encode(tool).decode() for tool in request.tools)
        return fitted.tokens + estimate_tokens(tools)

    async def _settle_input(self, request: TurnRequest) -> History:
        """Gives the input its ids and what it refers to; returns what comes before it."""
        history = await self._history(request)
        request.input = [with_id(item) for item in await self._dereference(request)]
        _check_calls([*history.items, *request.input])
        return history

    async def _history(self, request: TurnRequest) -> History:
        project = request.caller.project
        if request.previous_response_id:
            try:
                found = await self._storage.read(store.history_of_response, project, request.previous_response_id)
            except StillRunningError:
                raise InvalidRequest(
                    "The previous response is still in progress: wait until it has ended, or cancel it.",
                    param="previous_response_id",
                    code="invalid_value",
                ) from None
            if found is None:
                raise InvalidRequest(
                    f"Previous response with id '{request.previous_response_id[:128]}' not found.",
                    param="previous_response_id",
                    code="previous_response_not_found",
                )
            return found
        if request.conversation_id:
            found = await self._storage.read(store.history_of_conversation, project, request.conversation_id)
            if found is None:
                raise NotFound(f"Conversation with id '{request.conversation_id}' not found.")
            return found
        return History()

    async def _dereference(self, request: TurnRequest) -> list[Item]:
        """The input with references to stored items replaced by what they point at."""
        ids = [item["id"] for item in request.input if item["type"] == "item_reference"]
        if not ids:
            return request.input
        known = await self._storage.read(conversations.find_items, request.caller.project, ids)
        for i, item in enumerate(request.input):
            if item["type"] == "item_reference" and item["id"] not in known:
                raise InvalidRequest(f"Item with id '{item['id'][:128]}' not found.", param=f"input[{i}].id")
        return [known[item["id"]] if item["type"] == "item_reference" else item for item in request.input]

    async def _fit(self, request: TurnRequest, history: History) -> Fitted:
        return fit(
            history.items,
            request.input,
            await gather(self.sources, request, self._limits.source_timeout),
            instructions=request.instructions,
            limit=self._limits.context_tokens,
            truncate=request.truncation == "auto",
        )

    async def _prompt(self, run: Run, history: History) -> Prompt:
        request = run.request
        fitted = await self._fit(request, history)
        run.receipt = receipt(run.id, fitted, request.input, self._limits.context_tokens)
        return Prompt(
            model=run.model_name,
            items=with_pieces(fitted.items, fitted.pieces),
            instructions=request.instructions,
            tools=model_tools(request),
            tool_choice=model_tool_choice(request.tool_choice),
            parallel_tool_calls=request.parallel_tool_calls,
            temperature=request.temperature,
            top_p=request.top_p,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            max_output_tokens=request.max_output_tokens,
            stop=request.stop,
            seed=request.seed,
            text_format=request.text_format,
            reasoning_effort=request.reasoning_effort,
            user=request.user,
            request_id=request.request_id,
        )

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
        )
        run.writer = await self._log.open(
            request.caller.project, run.id, events, lambda connection: store.create(connection, opening)
        )
        run.writer.on_lost = lambda: run.stop("failed", "lease_lost")

    # ── driving ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _drive(self, run: Run, prompt: Prompt) -> None:
        """The run's task: whatever happens, the response ends, or its lease is given up for another to end it."""
        try:
            await self._work(run, prompt)
            await self._finish(run, *_outcome(run))
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

    async def _work(self, run: Run, prompt: Prompt) -> None:
        if run.state.status == "queued":
            await self._begin_background(run)
        if not run.request.generate:
            return
        for _ in range(self._limits.tool_rounds):
            said = len(run.output.items)
            await self._ask_model(run, prompt)
            if not run.output.server_calls:
                return
            await self._run_tools(run, prompt)
            if run.output.client_calls:
                return
            prompt.items += run.output.items[said:]
            run.output.next_step()
        prompt.tool_choice = "none"
        await self._ask_model(run, prompt)

    async def _begin_background(self, run: Run) -> None:
        run.state.status = "in_progress"
        project, response_id = run.request.caller.project, run.id
        events = run.output.lifecycle("response.in_progress", "in_progress")
        await run.writer.append(
            events, also=lambda connection: store.set_status(connection, project, response_id, "in_progress")
        )

    async def _ask_model(self, run: Run, prompt: Prompt) -> None:
        """One step: the model's deltas become events, which readers see when the log has them."""
        output, writer = run.output, run.writer
        async with contextlib.aclosing(run.model.stream(prompt)) as stream:  # type: ignore[type-var]
            async for deltas in stream:
                if events := output.feed(deltas):
                    await writer.push(events)
        usage = output.finish.usage if output.finish and output.finish.usage else _estimate(prompt, output)
        run.usage.add(usage)

    async def _run_tools(self, run: Run, prompt: Prompt) -> None:
        """Runs the calls that the model made; their results go back into the prompt."""
        budget = run.request.max_tool_calls
        for call in run.output.server_calls.values():
            done = len(run.receipt["searches"])
            if budget is not None and done >= budget:
                prompt.tool_choice = "none"
                await run.writer.append(run.output.close())
                return
            tool = server_tools(run.request)[call.name]
            item = self._file_search.begin(call, prompt.items)
            index = run.output.start_tool(item, "in_progress", "searching")
            await run.writer.append(run.output.take())
            item, passages = await self._file_search.run(item, tool, run.request)
            if item["status"] == "completed":
                run.output.progress(index, "completed")
            run.output.finish_tool(index, item)
            await run.writer.append(run.output.take())
            run.receipt["searches"].append(search_receipt(item, passages))
        if prompt.tool_choice not in ("auto", "none"):
            prompt.tool_choice = "auto"  # what was required has been done

    # ── ending ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _finish(self, run: Run, status: str, details: dict[str, str] | None = None) -> None:
        events = run.output.close("completed" if status == "completed" else "incomplete")
        await self._end(run, events, State(status=status, incomplete_details=details))

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
        state.completed_at = now() if state.status == "completed" else None
        run.state = state
        run.ending = True
        events += run.output.end(TERMINAL.get(state.status, ""))
        run.receipt["input_tokens"] = run.usage.input_tokens
        await run.writer.append(events, also=self._finisher(run.request.caller.project, run.id, state, run.receipt))

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


def _outcome(run: Run) -> tuple[str, dict[str, str] | None]:
    """How a run that was not disturbed ends."""
    reason = run.output.finish.reason if run.output.finish else "stop"
    if reason == "length":
        return "incomplete", {"reason": "max_output_tokens"}
    if reason == "content_filter":
        return "incomplete", {"reason": "content_filter"}
    return "completed", None


def _estimate(prompt: Prompt, output: Output) -> Usage:
    """Usage for a model server that does not count."""
    text = "".join(text_of(item) for item in output.items)
    return Usage(input_tokens=sum(map(tokens_of, prompt.items)), output_tokens=estimate_tokens(text))


def _check_calls(items: Sequence[Item]) -> None:
    """Every function's output must have its call before it."""
    calls: set[str] = set()
    for item in items:
        if item["type"] == "function_call":
            calls.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in calls:
            raise InvalidRequest(
                f"No tool call found for function call output with call_id {item['call_id'][:128]}.",
                param="input",
                code="invalid_value",
            )
