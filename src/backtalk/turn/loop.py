"""A run's work: the talk made short where it is too long, the model's steps, and the tools between them."""

import contextlib
import math
from collections.abc import Sequence

import msgspec

from backtalk.core.errors import FormatRefused
from backtalk.core.ids import new_id
from backtalk.core.text import estimate_tokens
from backtalk.domain.events import Event
from backtalk.domain.items import CLIENT_CALLS, Item
from backtalk.domain.model import Delta, Finish, Live, Prompt, Usage
from backtalk.turn.budget import tokens_of
from backtalk.turn.compaction import Summarising, compact, divide, expand
from backtalk.turn.demand import TRIES, Demand, disobeyed
from backtalk.turn.opening import Opener
from backtalk.turn.response import TIERS
from backtalk.turn.run import Limits, Run
from backtalk.turn.structured import Format
from backtalk.turn.tool_loop import FileSearch, callable_tools, search_receipt, server_tools


class Loop:
    """What a run does between its opening and its end."""

    def __init__(self, opener: Opener, file_search: FileSearch, limits: Limits) -> None:
        self._opener = opener
        self._file_search = file_search
        self._limits = limits

    async def work(self, run: Run, prompt: Prompt, long: list[Item] | None) -> None:
        """Asks the model and runs tools until it has answered. `long` is a talk that has to be made short before."""
        if long is not None:
            await self._compact(run, prompt, long)
        if run.request.compact:
            return
        output = run.output
        for _ in range(self._limits.tool_rounds):
            said = len(output.items)
            await self._ask(run, prompt)
            if not output.server_calls or _is_cut(run):
                return
            await self._run_tools(run, prompt)
            if output.client_calls:
                return
            prompt.items += output.items[said:]
        prompt.tool_choice = "none"
        said = len(output.items)
        await self._ask(run, prompt, last=True)
        run.runaway = len(output.items) == said

    # ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _ask(self, run: Run, prompt: Prompt, *, last: bool = False) -> None:
        """One step of the model's, asked again where it does not do what the request demands.

        In the `last` step it is asked once: it has called tools as often as it may.
        """
        form = Format(prompt.text_format) if prompt.text_format else None
        call = bool(prompt.tools) and prompt.tool_choice not in ("auto", "none")
        allowed = callable_tools(run.request, prompt.tool_choice) if prompt.tools else None
        if form is None and not call and allowed is None:
            if asked := _within_limit(run, prompt):
                await self._step(run, asked, None)
            return
        trusted = form is not None and getattr(run.model, "structured", False)
        reminders: list[Item] = []
        tries = 1 if last else TRIES
        while tries and (asked := _within_limit(run, prompt)):
            demand = Demand(form, call=call, allowed=allowed, trusted=trusted, stopped=bool(prompt.stop))
            asked = _demanding(asked, form, trusted, reminders)
            try:
                reminder = await self._step(run, asked, demand)
            except FormatRefused:
                if not trusted:
                    raise
                trusted = False
                continue
            if reminder is None:
                return
            reminders += demand.repeated(reminder)
            tries -= 1
        if not tries and not last:
            raise disobeyed(_complaint(call, form))

    async def _step(self, run: Run, prompt: Prompt, demand: Demand | None) -> str | None:
        """The model's deltas become events, which readers see when the log has them. Returns what to remind it of."""
        output, writer = run.output, run.writer
        since, ended, heard = len(output.items), False, 0
        most = _most_deltas(prompt)
        output.next_step()

        def events_of(deltas: Sequence[Delta]) -> list[Event]:
            nonlocal heard
            heard += len(deltas)
            if heard > most:
                deltas = [*deltas, Finish("length")]
            return output.feed(demand.feed(deltas) if demand else deltas)

        def take(deltas: Sequence[Delta]) -> bool:
            events = events_of(deltas)
            return (not events or writer.offer(events)) and heard <= most

        try:
            async with contextlib.aclosing(run.model.stream(prompt)) as stream:  # type: ignore[type-var]
                async for deltas in stream:
                    if isinstance(deltas, Live):
                        await deltas.feed(take)
                        await writer.settle()
                    elif events := events_of(deltas):
                        await writer.push(events)
                    if heard > most:
                        break
            ended = True
            if demand is None:
                return None
            kinds = {item["type"] for item in output.items[since:]}
            called = bool(output.server_calls or kinds & CLIENT_CALLS.keys())
            rest, reminder = demand.judge(called=called, spoke="message" in kinds)
            if events := output.feed([*rest, demand.finish or Finish()]):
                await writer.push(events)
            return reminder
        finally:
            finish = output.finish or (demand.finish if demand else None)
            wording = output.wording(since) + (demand.unseen if demand else "")
            if finish:
                run.service_tier = finish.service_tier if finish.service_tier in TIERS else run.service_tier
                run.served_by = finish.model or run.served_by
            if finish and finish.usage:
                run.spent(finish.usage, finish.model)
            elif wording or ended:  # what broke off before it began cost nothing
                run.spent(_estimate(prompt, wording), finish.model if finish else None)

    # ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run_tools(self, run: Run, prompt: Prompt) -> None:
        """Runs the calls that the model made; their results go back into the prompt."""
        budget = run.request.max_tool_calls
        if events := run.output.close():
            await run.writer.append(events)
        for call in run.output.server_calls.values():
            done = len(run.receipt["searches"])
            if budget is not None and done >= budget:
                prompt.tool_choice = "none"
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

    # ── a talk that is too long ──────────────────────────────────────────────────────────────────────────────────────

    async def _compact(self, run: Run, prompt: Prompt, long: list[Item]) -> None:
        """Puts a compaction item into the output; the prompt goes on from it."""
        request, output = run.request, run.output
        item_id = new_id("cmp")
        index = output.start_tool({"id": item_id, "type": "compaction", "encrypted_content": ""}, "compacting")
        await run.writer.append(output.take())
        old, kept = (long, []) if request.compact else divide(long, request.compact_above or 0)
        how = Summarising(run.model, run.model_name, self._limits.context_tokens, request.instructions, run.usage)
        item, by = await compact(how, old, kept, users=request.compact, item_id=item_id)
        output.finish_tool(index, item)
        await run.writer.append(output.take())
        short = expand([*long, item])
        run.receipt["compaction"] = {
            "item_id": item_id,
            "by": by,
            "items": len(old),
            "tokens_before": sum(map(tokens_of, long)),
            "tokens_after": sum(map(tokens_of, short)),
        }
        if not request.compact:
            fitted = await self._opener.fit(request, run.model, short)
            run.receipt |= self._opener.receipt(run.id, fitted, request)
            prompt.items = self._opener.prompt(request, run.model_name, fitted).items


def _is_cut(run: Run) -> bool:
    """Whether the model was stopped midway: a call that is half written is not made."""
    return run.output.finish is not None and run.output.finish.reason in ("length", "content_filter")


def _within_limit(run: Run, prompt: Prompt) -> Prompt | None:
    """The prompt with what is left of the response's output; None when nothing is."""
    if prompt.max_output_tokens is None:
        return prompt
    left = prompt.max_output_tokens - run.answered
    if left <= 0:
        run.output.finish = Finish("length")
        return None
    return msgspec.structs.replace(prompt, max_output_tokens=left)


def _most_deltas(prompt: Prompt) -> float:
    """After how many deltas a server that heeds no limit is left: a token is one delta at most, with much to spare."""
    return math.inf if prompt.max_output_tokens is None else 4 * prompt.max_output_tokens + 64


def _demanding(prompt: Prompt, form: Format | None, trusted: bool, reminders: Sequence[Item]) -> Prompt:
    """The prompt with its demands in words, for a model that knows no formats; and with what it was reminded of."""
    changed = msgspec.structs.replace(prompt, items=[*prompt.items, *reminders])
    if form and not (trusted and form.named):  # servers want the word JSON to stand somewhere, where there is no schema
        changed.instructions = "\n\n".join(filter(None, [prompt.instructions, form.words]))
    if not trusted:
        changed.text_format = None
    return changed


def _complaint(call: bool, form: Format | None) -> str:
    if call:
        return "it called no tool"
    return "its answer is not what text.format asks for" if form else "it said nothing"


def _estimate(prompt: Prompt, wording: str) -> Usage:
    """Usage for a model server that does not count, or was left before it could."""
    return Usage(input_tokens=sum(map(tokens_of, prompt.items)), output_tokens=estimate_tokens(wording))
