"""A run's work: the talk made short where it is too long, the model's steps, and the tools between them."""

import contextlib
from collections.abc import Sequence

import msgspec

from backtalk.core.errors import FormatRefused
from backtalk.core.ids import new_id
from backtalk.core.text import estimate_tokens
from backtalk.domain.compaction import Compaction, pack
from backtalk.domain.items import Item
from backtalk.domain.model import Finish, Prompt, Usage
from backtalk.turn.budget import tokens_of
from backtalk.turn.compaction import expand, split, summarise, summarise_somehow
from backtalk.turn.context import receipt
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

    async def work(self, run: Run, prompt: Prompt, long: Sequence[Item] | None) -> None:
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
            output.next_step()
        prompt.tool_choice = "none"
        said = len(output.items)
        await self._ask(run, prompt, last=True)
        run.runaway = len(output.items) == said

    # ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _ask(self, run: Run, prompt: Prompt, *, last: bool = False) -> None:
        """One step of the model's, asked again where it does not do what the request demands.

        In the `last` step a model that calls tools for ever is not talked to further.
        """
        output = run.output
        output.callable_tools = callable_tools(run.request, prompt.tool_choice) if prompt.tools else None
        if prompt.max_output_tokens is not None:
            left = prompt.max_output_tokens - run.usage.output_tokens
            if left <= 0:
                output.finish = Finish("length", Usage())
                return
            prompt = msgspec.structs.replace(prompt, max_output_tokens=left)
        call = bool(prompt.tools) and prompt.tool_choice not in ("auto", "none")
        if prompt.text_format is None and (last or (not call and output.callable_tools is None)):
            await self._step(run, prompt, None)
        else:
            await self._insist(run, prompt, call=call)

    async def _insist(self, run: Run, prompt: Prompt, *, call: bool) -> None:
        form = Format(prompt.text_format) if prompt.text_format else None
        trusted = form is not None and getattr(run.model, "structured", False)
        demand = Demand(form, call=call, trusted=trusted)
        asked = prompt if trusted or form is None else _in_words(prompt, form)
        for _ in range(TRIES):
            try:
                reminder = await self._step(run, asked, demand)
            except FormatRefused:
                if form is None or asked.text_format is None:
                    raise
                demand = Demand(form, call=call, trusted=False)
                asked = _in_words(prompt, form)
                reminder = await self._step(run, asked, demand)
            if reminder is None:
                return
            asked = msgspec.structs.replace(asked, items=[*asked.items, *demand.repeated(reminder)])
            demand.begin()
        raise disobeyed(
            "it called no tool"
            if call
            else "its answer is not what text.format asks for"
            if form
            else "it said nothing"
        )

    async def _step(self, run: Run, prompt: Prompt, demand: Demand | None) -> str | None:
        """The model's deltas become events, which readers see when the log has them. Returns what to remind it of."""
        output, writer = run.output, run.writer
        since, output.finish, ended = len(output.items), None, False
        try:
            async with contextlib.aclosing(run.model.stream(prompt)) as stream:  # type: ignore[type-var]
                async for deltas in stream:
                    if demand:
                        deltas = demand.feed(deltas)
                    if events := output.feed(deltas):
                        await writer.push(events)
            ended = True
            if demand is None:
                return None
            rest, reminder = demand.judge(len(output.items) > since or bool(output.server_calls))
            if events := output.feed([*rest, demand.finish or Finish()]):
                await writer.push(events)
            return reminder
        finally:
            finish = output.finish or (demand.finish if demand else None)
            if finish and finish.service_tier in TIERS:
                run.service_tier = finish.service_tier
            if finish and finish.usage:
                run.usage.add(finish.usage)
            elif (wording := output.wording(since)) or ended:  # what broke off before it began cost nothing
                run.usage.add(_estimate(prompt, wording))

    # ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run_tools(self, run: Run, prompt: Prompt) -> None:
        """Runs the calls that the model made; their results go back into the prompt."""
        budget = run.request.max_tool_calls
        for call in run.output.server_calls.values():
            done = len(run.receipt["searches"])
            if budget is not None and done >= budget:
                prompt.tool_choice = "none"
                if events := run.output.close():
                    await run.writer.append(events)
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

    async def _compact(self, run: Run, prompt: Prompt, long: Sequence[Item]) -> None:
        """Puts a compaction item into the output; the prompt goes on from it."""
        request, output = run.request, run.output
        item: Item = {"id": new_id("cmp"), "type": "compaction", "encrypted_content": ""}
        index = output.start_tool(item, "compacting")
        await run.writer.append(output.take())
        at = len(long) if request.compact else split(long)
        make = summarise if request.compact else summarise_somehow
        limit = self._limits.context_tokens
        summary = await make(run.model, run.model_name, long[:at], limit=limit, instructions=request.instructions)
        run.usage.add(summary.usage)
        compaction = Compaction(summary.text, list(long[at:]), users=request.compact)
        item = {**item, "encrypted_content": pack(compaction)}
        output.finish_tool(index, item)
        await run.writer.append(output.take())
        await self._go_on_from(run, prompt, item)
        run.receipt["compaction"] = {
            "item_id": item["id"],
            "by": summary.by,
            "items": at,
            "tokens_before": sum(map(tokens_of, long)),
            "tokens_after": sum(map(tokens_of, expand([item]))),
        }

    async def _go_on_from(self, run: Run, prompt: Prompt, item: Item) -> None:
        request = run.request
        fitted = await self._opener.fit(request, run.model, expand([item]))
        run.receipt = receipt(run.id, fitted, request.input, self._limits.context_tokens)
        prompt.items = self._opener.prompt(request, run.model_name, fitted).items


def _is_cut(run: Run) -> bool:
    """Whether the model was stopped midway: a call that is half written is not made."""
    return run.output.finish is not None and run.output.finish.reason in ("length", "content_filter")


def _in_words(prompt: Prompt, form: Format) -> Prompt:
    """The prompt for a model that knows no `text.format`."""
    told = "\n\n".join(filter(None, [prompt.instructions, form.words]))
    return msgspec.structs.replace(prompt, text_format=None, instructions=told)


def _estimate(prompt: Prompt, wording: str) -> Usage:
    """Usage for a model server that does not count, or was left before it could."""
    return Usage(input_tokens=sum(map(tokens_of, prompt.items)), output_tokens=estimate_tokens(wording))
