"""Suites that an adapter must pass: subclass one in your tests and pytest runs it against your part."""

# ruff: noqa: S101

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import msgspec

from backtalk.core.errors import FormatRefused
from backtalk.domain.model import Delta, Finish, Live, Model, Prompt, RefusalDelta, TextDelta, Tool, ToolCallDelta

REASONS = ("stop", "length", "tool_calls", "content_filter")
WEATHER = Tool(
    "get_weather",
    "The weather in a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False},
)


class ModelSuite:
    """What every model must do.

        class TestMine(ModelSuite):
            def make_model(self) -> Model:
                return MyModel()

    Override `open_model` instead when the model has to be closed after use. Turn a capability off by its flag. No
    plugin of pytest is needed.
    """

    model_name = "test"
    """The name that the model goes by where it runs: `Prompt.model`."""
    timeout = 60.0
    """Seconds that each test may take."""
    calls_tools = True
    reports_usage = True

    def make_model(self) -> Model:
        """A model to test. Called inside a running event loop."""
        raise NotImplementedError("override make_model() or open_model()")

    @contextlib.asynccontextmanager
    async def open_model(self) -> AsyncIterator[Model]:
        """The model for one test."""
        yield self.make_model()

    def prompt(self, text: str, **settings: Any) -> Prompt:
        message = {"type": "message", "role": "user", "content": text}
        return Prompt(model=self.model_name, items=[message], **settings)

    def test_it_answers_with_text(self) -> None:
        deltas = self._answer(self.prompt("Say hello."))
        said = "".join(delta.text for delta in deltas if isinstance(delta, (TextDelta, RefusalDelta)))
        assert said.strip(), "the model said nothing"
        assert _finish(deltas).reason in ("stop", "length")

    def test_every_read_holds_deltas_and_the_last_one_is_the_finish(self) -> None:
        reads = self._reads(self.prompt("Say hello."))
        assert all(len(read) for read in reads), "a read without deltas costs a wake-up for nothing"
        deltas = [delta for read in reads for delta in read]
        finishes = [place for place, delta in enumerate(deltas) if isinstance(delta, Finish)]
        assert finishes == [len(deltas) - 1], "exactly one Finish, and nothing after it"
        assert _finish(deltas).reason in REASONS

    def test_it_tells_its_usage(self) -> None:
        if self.reports_usage:
            usage = _finish(self._answer(self.prompt("Say hello."))).usage
            assert usage is not None, "set reports_usage = False for a server that counts no tokens"
            assert usage.input_tokens > 0 and usage.output_tokens > 0

    def test_it_stops_at_the_limit_of_tokens(self) -> None:
        text = "Count from one to one hundred, each number as a word."
        deltas = self._answer(self.prompt(text, max_output_tokens=3))
        assert _finish(deltas).reason == "length"
        if self.reports_usage:
            usage = _finish(deltas).usage
            assert usage is not None and usage.output_tokens <= 3

    def test_it_calls_a_tool_that_it_must_call(self) -> None:
        if self.calls_tools:
            for choice in ("required", "get_weather"):
                self._check_call(self.prompt("What is the weather in Paris?", tools=[WEATHER], tool_choice=choice))

    def test_it_calls_no_tool_that_it_must_not_call(self) -> None:
        prompt = self.prompt("What is the weather in Paris?", tools=[WEATHER], tool_choice="none")
        assert not _calls(self._answer(prompt))

    def test_it_takes_the_output_of_a_tool(self) -> None:
        if self.calls_tools:
            prompt = self.prompt("What is the weather in Paris?", tools=[WEATHER])
            call = {
                "type": "function_call",
                "call_id": "call_1",
                "name": "get_weather",
                "arguments": '{"city":"Paris"}',
            }
            prompt.items += [call, {"type": "function_call_output", "call_id": "call_1", "output": "sunny, 21 degrees"}]
            deltas = self._answer(prompt)
            assert any(isinstance(delta, TextDelta) for delta in deltas) or _calls(deltas)

    def test_a_structured_one_keeps_to_a_schema_or_refuses_it(self) -> None:
        async def check(model: Model) -> None:
            if getattr(model, "structured", False):
                wanted = {"type": "json_schema", "name": "place", "schema": WEATHER.parameters, "strict": True}
                prompt = self.prompt("I live in Paris. Give me my city as JSON.", text_format=wanted)
                with contextlib.suppress(FormatRefused):
                    deltas = [delta for read in await _collect(model, prompt) for delta in read]
                    said = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
                    assert isinstance(msgspec.json.decode(said)["city"], str), f"against the schema: {said}"

        self._run(check)

    def test_it_can_be_closed_early_and_used_again(self) -> None:
        async def check(model: Model) -> None:
            stream = model.stream(self.prompt("Count from one to one hundred, each number as a word."))
            assert await anext(aiter(stream))
            await stream.aclose()  # type: ignore[attr-defined]  # async generators have it, and a turn calls it
            async for _ in model.stream(self.prompt("Say hello.")):
                pass

        self._run(check)

    def test_it_answers_side_by_side(self) -> None:
        async def check(model: Model) -> None:
            answers = await asyncio.gather(*(_collect(model, self.prompt("Say hello.")) for _ in range(8)))
            assert all(isinstance(reads[-1][-1], Finish) for reads in answers)

        self._run(check)

    def _check_call(self, prompt: Prompt) -> None:
        deltas = self._answer(prompt)
        calls = _calls(deltas)
        assert calls, f"no call although tool_choice is {prompt.tool_choice!r}"
        for call in calls.values():
            assert call[0].call_id and call[0].name == "get_weather"
            arguments = msgspec.json.decode("".join(part.arguments for part in call))
            assert isinstance(arguments.get("city"), str), f"arguments against the schema: {arguments}"
        assert _finish(deltas).reason == "tool_calls"

    def _answer(self, prompt: Prompt) -> list[Delta]:
        return [delta for read in self._reads(prompt) for delta in read]

    def _reads(self, prompt: Prompt) -> list[Sequence[Delta]]:
        async def collect(model: Model) -> list[Sequence[Delta]]:
            return await _collect(model, prompt)

        reads: list[Sequence[Delta]] = self._run(collect)
        assert reads, "the stream ended without a Finish"
        return reads

    def _run(self, check: Callable[[Model], Coroutine[Any, Any, Any]]) -> Any:
        async def run() -> Any:
            async with asyncio.timeout(self.timeout), self.open_model() as model:
                return await check(model)

        return asyncio.run(run())


async def _collect(model: Model, prompt: Prompt) -> list[Sequence[Delta]]:
    return [read async for read in model.stream(prompt) if not isinstance(read, Live)]


def _calls(deltas: Sequence[Delta]) -> dict[int, list[ToolCallDelta]]:
    calls: dict[int, list[ToolCallDelta]] = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            calls.setdefault(delta.index, []).append(delta)
    return calls


def _finish(deltas: Sequence[Delta]) -> Finish:
    last = deltas[-1]
    assert isinstance(last, Finish), f"the last delta is {last!r}, not a Finish"
    return last
