"""Every wire over every kind of model server: nine ways from a client to a model, and the same comes of all of them.

The model servers are a second Backtalk, which speaks all three dialects itself.
"""

import base64
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import anthropic
import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.lib.streaming.responses._responses import ResponseStreamState

from backtalk import Backtalk
from backtalk.core.settings import Settings
from backtalk.domain.model import Delta, Finish, Prompt, Usage
from backtalk.models.retry import Tries
from backtalk.testing import ScriptedModel, check_transcript, client, serve

MODEL = "claude-sonnet-4-5"
"""A name that lets the adapter for Anthropic's wire ask for formats and thinking."""
ADAPTERS = ("openai", "openai-responses", "anthropic")
PNG = "iVBORw0KGgo="
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["city", "n"],
    "additionalProperties": False,
}
WEATHER = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
ASKED = "What's the weather like in Paris?"


class Call(NamedTuple):
    id: str
    name: str
    arguments: Any


class Said(NamedTuple):
    """An answer, whatever the wire. `reason` is stop | length | tool_calls."""

    text: str
    thought: str
    calls: list[Call]
    reason: str
    usage: Usage


class Recorder(ScriptedModel):
    """Remembers what it said that it cost."""

    usage = Usage()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        async for deltas in super().stream(prompt):
            for delta in deltas:
                if isinstance(delta, Finish):
                    self.usage = delta.usage or Usage()
            yield deltas


class Wire(Protocol):
    """One of our wires, as its own SDK speaks it."""

    failures: tuple[type[Exception], ...]

    def ask(self, model: str, talk: list[Any], stream: bool, **wanted: Any) -> Said:
        """`talk` holds texts of the user, ("image", base64), ("file", name, text), and calls with what they returned."""
        ...


# ── the wires ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Responses:
    failures = (openai.APIError,)

    def __init__(self, url: str) -> None:
        self.sdk = client(url)

    def ask(self, model: str, talk: list[Any], stream: bool, **wanted: Any) -> Said:
        fields: dict[str, Any] = {"model": model, "input": self._input(talk), "store": False}
        if wanted.get("tools"):
            fields["tools"] = [{"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": False}]
        if wanted.get("structured"):
            fields["text"] = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}
        if wanted.get("most"):
            fields["max_output_tokens"] = wanted["most"]
        if wanted.get("summary"):
            fields["reasoning"] = {"effort": "low", "summary": "auto"}
        return self._said(self._streamed(fields) if stream else self.sdk.responses.create(**fields))

    def _streamed(self, fields: dict[str, Any]) -> Any:
        """The response of the last event, which is what the SDK gathers from those before."""
        events = list(self.sdk.responses.create(**fields, stream=True))
        check_transcript([event.to_dict() for event in events])
        state: Any = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
        gathered = [made for event in events for made in state.handle_event(event)][-1].response
        last: Any = events[-1]
        if last.type == "response.failed":
            raise openai.APIError(last.response.error.message, None, body=None)  # type: ignore[arg-type]
        assert gathered.output_text == last.response.output_text
        return last.response

    @staticmethod
    def _input(talk: list[Any]) -> list[Any]:
        items: list[Any] = []
        content: list[Any] = []
        for entry in talk:
            match entry:
                case str(text):
                    content.append({"type": "input_text", "text": text})
                case ("image", data):
                    content.append({"type": "input_image", "image_url": f"data:image/png;base64,{data}"})
                case ("file", name, text):
                    data = base64.b64encode(text.encode()).decode()
                    file = {"filename": name, "file_data": f"data:text/plain;base64,{data}"}
                    content.append({"type": "input_file", **file})
                case (Call(call_id, name, arguments), output):
                    call = {"call_id": call_id, "name": name, "arguments": json.dumps(arguments)}
                    items += [
                        {"type": "function_call", **call},
                        {"type": "function_call_output", "call_id": call_id, "output": output},
                    ]
        return [{"role": "user", "content": content}, *items]

    @staticmethod
    def _said(answer: Any) -> Said:
        thoughts = [part.text for item in answer.output if item.type == "reasoning"
                    for part in [*item.summary, *(item.content or ())]]  # fmt: skip
        calls = [Call(i.call_id, i.name, json.loads(i.arguments)) for i in answer.output if i.type == "function_call"]
        used = answer.usage
        cut = answer.incomplete_details and answer.incomplete_details.reason == "max_output_tokens"
        usage = Usage(
            used.input_tokens,
            used.output_tokens,
            used.input_tokens_details.cached_tokens,
            reasoning_tokens=used.output_tokens_details.reasoning_tokens,
        )
        reason = "length" if cut else "tool_calls" if calls else "stop"
        return Said(answer.output_text, "\n".join(thoughts), calls, reason, usage)


class Chat:
    failures = (openai.APIError,)

    def __init__(self, url: str) -> None:
        self.sdk = client(url)

    def ask(self, model: str, talk: list[Any], stream: bool, **wanted: Any) -> Said:
        fields: dict[str, Any] = {"model": model, "messages": self._messages(talk)}
        if wanted.get("tools"):
            fields["tools"] = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]
        if wanted.get("structured"):
            form = {"name": "n", "schema": SCHEMA, "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": form}
        if wanted.get("most"):
            fields["max_completion_tokens"] = wanted["most"]
        if wanted.get("stop"):
            fields["stop"] = wanted["stop"]
        if wanted.get("summary"):
            fields["reasoning_effort"] = "low"
        return self._said(self._streamed(fields) if stream else self.sdk.chat.completions.create(**fields))

    def _streamed(self, fields: dict[str, Any]) -> Any:
        state: Any = ChatCompletionStreamState()
        for chunk in self.sdk.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}):
            state.handle_chunk(chunk)
        return state.current_completion_snapshot

    @staticmethod
    def _messages(talk: list[Any]) -> list[Any]:
        messages: list[Any] = []
        content: list[Any] = []
        for entry in talk:
            match entry:
                case str(text):
                    content.append({"type": "text", "text": text})
                case ("image", data):
                    content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
                case ("file", name, text):
                    data = base64.b64encode(text.encode()).decode()
                    file = {"filename": name, "file_data": f"data:text/plain;base64,{data}"}
                    content.append({"type": "file", "file": file})
                case (Call(call_id, name, arguments), output):
                    function = {"name": name, "arguments": json.dumps(arguments)}
                    call = {"id": call_id, "type": "function", "function": function}
                    messages += [
                        {"role": "assistant", "tool_calls": [call]},
                        {"role": "tool", "tool_call_id": call_id, "content": output},
                    ]
        return [{"role": "user", "content": content}, *messages]

    @staticmethod
    def _said(answer: Any) -> Said:
        choice, used = answer.choices[0], answer.usage
        message = choice.message
        calls = [Call(c.id, c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or ()]
        usage = Usage(
            used.prompt_tokens,
            used.completion_tokens,
            used.prompt_tokens_details.cached_tokens,
            reasoning_tokens=used.completion_tokens_details.reasoning_tokens,
        )
        thought = getattr(message, "reasoning_content", None) or ""
        return Said(message.content or "", thought, calls, choice.finish_reason, usage)


class Messages:
    failures = (anthropic.APIError,)

    def __init__(self, url: str) -> None:
        self.sdk = anthropic.Anthropic(base_url=url, api_key="local", max_retries=0)

    def ask(self, model: str, talk: list[Any], stream: bool, **wanted: Any) -> Said:
        fields: dict[str, Any] = {"model": model, "messages": self._messages(talk)}
        fields["max_tokens"] = wanted.get("most") or 4096
        if wanted.get("tools"):
            fields["tools"] = [{"name": "get_weather", "input_schema": WEATHER}]
        if wanted.get("structured"):
            fields["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
        if wanted.get("stop"):
            fields["stop_sequences"] = wanted["stop"]
        if wanted.get("summary"):
            fields["thinking"] = {"type": "enabled", "budget_tokens": 1024}
        return self._said(self._streamed(fields) if stream else self.sdk.messages.create(**fields))

    def _streamed(self, fields: dict[str, Any]) -> Any:
        with self.sdk.messages.stream(**fields) as stream:
            return stream.get_final_message()

    @staticmethod
    def _messages(talk: list[Any]) -> list[Any]:
        messages: list[Any] = []
        content: list[Any] = []
        for entry in talk:
            match entry:
                case str(text):
                    content.append({"type": "text", "text": text})
                case ("image", data):
                    source = {"type": "base64", "media_type": "image/png", "data": data}
                    content.append({"type": "image", "source": source})
                case ("file", name, text):
                    source = {"type": "text", "media_type": "text/plain", "data": text}
                    content.append({"type": "document", "title": name, "source": source})
                case (Call(call_id, name, arguments), output):
                    call = {"type": "tool_use", "id": call_id, "name": name, "input": arguments}
                    result = {"type": "tool_result", "tool_use_id": call_id, "content": output}
                    messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        return [{"role": "user", "content": content}, *messages]

    @staticmethod
    def _said(answer: Any) -> Said:
        blocks = answer.content
        used = answer.usage
        cached = (used.cache_read_input_tokens or 0, used.cache_creation_input_tokens or 0)
        usage = Usage(used.input_tokens + sum(cached), used.output_tokens, *cached)
        details = getattr(used, "output_tokens_details", None)
        details = details if isinstance(details, dict) or details is None else details.to_dict()
        usage.reasoning_tokens = (details or {}).get("thinking_tokens", 0)
        reasons = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}
        return Said(
            "".join(block.text for block in blocks if block.type == "text"),
            "\n".join(block.thinking for block in blocks if block.type == "thinking"),
            [Call(block.id, block.name, block.input) for block in blocks if block.type == "tool_use"],
            reasons[answer.stop_reason],
            usage,
        )


WIRES: dict[str, type[Any]] = {"Responses": Responses, "Chat": Chat, "Messages": Messages}


# ── the servers ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Nine(NamedTuple):
    url: str
    model: Recorder


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nine]:
    """Ours, and the model at the end of every way."""
    home = tmp_path_factory.mktemp("nine")
    model = Recorder(id=MODEL)
    with pytest.MonkeyPatch.context() as patch:
        wait = Tries.wait
        patch.setattr(Tries, "wait", lambda self, after=None: wait(self, 0.001))
        with serve(Backtalk(Settings(home=home / "far", discover=False), models=[model])) as far:
            upstreams: Any = [{"name": name, "url": f"{far}/v1", "adapter": name} for name in ADAPTERS]
            with serve(Backtalk(Settings(home=home / "ours", discover=False, upstreams=upstreams))) as url:
                yield Nine(url, model)


class Way:
    """From a wire to an upstream."""

    def __init__(self, nine: Nine, wire: Wire, adapter: str, stream: bool) -> None:
        self.wire, self.adapter, self.stream = wire, adapter, stream
        self.model = nine.model

    def ask(self, *talk: Any, **wanted: Any) -> Said:
        return self.wire.ask(f"{self.adapter}/{MODEL}", list(talk), self.stream, **wanted)

    @property
    def prompt(self) -> Prompt:
        """What the model was asked last."""
        return self.model.prompts[-1]


@pytest.fixture(params=["whole", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "streamed")


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WIRES)
def way(request: pytest.FixtureRequest, nine: Nine, adapter: str, stream: bool) -> Way:
    return Way(nine, WIRES[request.param](nine.url), adapter, stream)


# ── what comes of it ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_text_and_usage(way: Way) -> None:
    said = way.ask("Say exactly: Grüße, Wörld 🌍")
    assert (said.text, said.reason, said.calls) == ("Grüße, Wörld 🌍", "stop", [])
    assert said.usage == way.model.usage and said.usage.input_tokens and said.usage.output_tokens


def test_a_call_and_its_result(way: Way) -> None:
    asked = way.ask(ASKED, tools=True)
    (call,) = asked.calls
    assert (call.name, call.arguments, asked.reason) == ("get_weather", {"location": "Paris"}, "tool_calls")
    said = way.ask(ASKED, (call, "sunny, 21 degrees"), tools=True)
    assert "sunny, 21 degrees" in said.text and not said.calls
    kinds = [item.get("type", "message") for item in way.prompt.items]
    assert kinds == ["message", "function_call", "function_call_output"]
    assert {item["call_id"] for item in way.prompt.items[1:]} == {call.id}


def test_several_calls_keep_apart(way: Way) -> None:
    calls = way.ask("What's the weather like in Paris, Rome and Oslo?", tools=True).calls
    assert [call.arguments for call in calls] == [{"location": place} for place in ("Paris", "Rome", "Oslo")]
    assert len({call.id for call in calls}) == 3


def test_thinking(way: Way) -> None:
    said = way.ask("[[think]] Say exactly: Yes.")
    assert (said.thought, said.text) == ("Let me think about that.", "Yes.")
    assert said.usage == way.model.usage and said.usage.reasoning_tokens


def test_a_summary_of_thinking(way: Way) -> None:
    said = way.ask("[[think]] [[summarise]] Say exactly: Yes.", summary=True)
    assert said.text == "Yes."
    for sentence in ("The user asks for something.", "A short answer will do.", "Let me think about that."):
        assert sentence in said.thought


def test_an_image(way: Way) -> None:
    assert "You sent 1 image." in way.ask("Look.", ("image", PNG)).text
    parts = way.prompt.items[-1]["content"]
    assert [part["image_url"] for part in parts if part["type"] == "input_image"] == [f"data:image/png;base64,{PNG}"]


def test_a_file(way: Way) -> None:
    """Its text reaches the model, as a file or as words."""
    way.ask("Read.", ("file", "gate.txt", "The code of the gate is 4711."))
    told = json.dumps(way.prompt.items)
    assert "4711" in told or base64.b64encode(b"The code of the gate is 4711.").decode() in told
    assert "gate.txt" in told


def test_structured_output(way: Way) -> None:
    said = way.ask("I live in Oslo, and have 3 cats.", structured=True)
    assert json.loads(said.text) == {"city": "Oslo", "n": 3}
    assert way.prompt.text_format and way.prompt.text_format["schema"] == SCHEMA


def test_a_limit_of_tokens(way: Way) -> None:
    said = way.ask("[[tokens:20]]", most=3)
    assert (said.text.split(), said.reason) == (["word0", "word1", "word2"], "length")
    assert said.usage == way.model.usage and said.usage.output_tokens == 3


@pytest.mark.parametrize("way", ["Chat", "Messages"], indirect=True)
@pytest.mark.parametrize("adapter", ["openai", "anthropic"])
def test_a_stop_sequence(way: Way) -> None:
    """Where both ends have them: OpenAI's Responses wire has none."""
    said = way.ask("Say exactly: one two three", stop=["two"])
    assert (said.text.strip(), said.reason) == ("one", "stop")


def test_a_failure_before_the_first_token(way: Way) -> None:
    with pytest.raises(way.wire.failures) as caught:
        way.ask("[[fail:before]]")
    assert "told to fail" in str(caught.value)
    assert way.ask("Say exactly: well again").text == "well again"


def test_a_failure_after_the_first_token(way: Way) -> None:
    with pytest.raises(way.wire.failures):
        way.ask("[[tokens:20]] [[fail:after:5]]")
    assert way.ask("Say exactly: well again").text == "well again"


def test_a_limit_of_the_rate(way: Way) -> None:
    with pytest.raises(way.wire.failures):
        way.ask("[[fail:429]]")
    assert way.ask("Say exactly: well again").text == "well again"
