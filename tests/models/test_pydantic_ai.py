import asyncio
import base64
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import msgspec
import pytest
from fake_upstream import delta, events, fake_upstream, finish, status
from pydantic_ai import exceptions as failures
from pydantic_ai import messages as talk
from pydantic_ai.models import Model as Provided
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.models.test import TestModel as StandIn
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.providers.openai import OpenAIProvider

from backtalk import Backtalk
from backtalk.core.errors import BacktalkError, FormatRefused, InvalidRequest, ModelNotFound, RateLimited, UpstreamError
from backtalk.domain.model import (
    CitationDelta,
    Delta,
    Finish,
    Model,
    Prompt,
    ReasoningDelta,
    RefusalDelta,
    SealedReasoning,
    TextDelta,
    Tool,
    ToolCallDelta,
    Usage,
)
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.health import FAILURES
from backtalk.models.pydantic_ai import SEALED, PydanticAI
from backtalk.testing import ModelSuite, ScriptedModel, serve

TOOL = Tool(
    "get_weather",
    "The weather in a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False},
)
PLACE = {"type": "json_schema", "name": "place", "schema": TOOL.parameters, "strict": True}
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


# ── without a server ─────────────────────────────────────────────────────────────────────────────────────────────────


def message(role: str, content: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content}


def call(call_id: str, name: str = "get_weather", arguments: str = '{"city":"Paris"}') -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def output(call_id: str, text: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def thought(sealed: str, text: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}]
    return {"type": "reasoning", "summary": [], "content": content, "encrypted_content": sealed}


def prompt(*items: dict[str, Any], model: str = "scripted", **settings: Any) -> Prompt:
    return Prompt(model=model, items=list(items), **settings)


def adapter(provided: Provided | Exception) -> PydanticAI:
    def find(_: str) -> Provided:
        if isinstance(provided, Exception):
            raise provided
        return provided

    return PydanticAI(Upstream("far", ""), Egress(), find)


class Heard:
    """A model that keeps what it is asked, and answers with what it is given."""

    def __init__(self, *answer: Any, profile: ModelProfile | None = None) -> None:
        self.messages: list[talk.ModelMessage] = []
        self.info: Any = None
        self.closed = False
        self._answer = answer or ("ok",)
        self.model = FunctionModel(stream_function=self._stream, profile=profile)

    async def _stream(self, messages: list[talk.ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        self.messages, self.info = messages, info
        try:
            for one in self._answer:
                if isinstance(one, Exception):
                    raise one
                yield one
        finally:
            self.closed = True


async def collected(model: Model, wanted: Prompt) -> list[Delta]:
    return [delta async for read in model.stream(wanted) for delta in read]


async def heard(*items: dict[str, Any], **settings: Any) -> Heard:
    one = Heard()
    await collected(adapter(one.model), prompt(*items, **settings))
    return one


async def parts(*items: dict[str, Any], **settings: Any) -> list[list[Any]]:
    return [list(one.parts) for one in (await heard(*items, **settings)).messages]


def contents(found: list[list[Any]]) -> list[list[tuple[str, Any]]]:
    return [[(one.part_kind, getattr(one, "content", None) or one.tool_name) for one in parts] for parts in found]


async def test_a_talk_becomes_messages() -> None:
    found = await parts(
        message("user", "Hi"),
        message("assistant", [{"type": "output_text", "text": "Hello.", "annotations": []}]),
        message("user", [{"type": "input_text", "text": "Weather?"}]),
        call("c1"),
        output("c1", "sunny"),
        instructions="Be kind.",
    )
    assert contents(found) == [
        [("system-prompt", "Be kind."), ("user-prompt", "Hi")],
        [("text", "Hello.")],
        [("user-prompt", "Weather?")],
        [("tool-call", "get_weather")],
        [("tool-return", "sunny")],
    ]
    asked, answered = found[3][0], found[4][0]
    assert asked.args_as_dict() == {"city": "Paris"}
    assert asked.tool_call_id == answered.tool_call_id == "c1" and answered.tool_name == "get_weather"


async def test_the_first_and_the_last_word_are_a_users() -> None:
    assert contents(await parts(message("assistant", "Hello!"))) == [
        [("user-prompt", "Begin.")],
        [("text", "Hello!")],
        [("user-prompt", "Go on.")],
    ]
    assert contents(await parts()) == [[("user-prompt", "Begin.")]]
    assert contents(await parts(instructions="Be kind.")) == [
        [("system-prompt", "Be kind."), ("user-prompt", "Go on.")]
    ]


async def test_images_audio_and_files_become_contents() -> None:
    words = base64.b64encode(b"a,b").decode()
    [[asked]] = await parts(
        message(
            "user",
            [
                {"type": "input_text", "text": "Look"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "low"},
                {"type": "input_image", "image_url": "https://x/y.png"},
                {"type": "input_audio", "input_audio": {"data": words, "format": "mp3"}},
                {"type": "input_file", "filename": "a.csv", "file_data": words},
            ],
        )
    )
    text, image, url, audio, file = asked.content
    assert text == "Look" and url.url == "https://x/y.png"
    assert (image.media_type, image.data[1:4], image.vendor_metadata) == ("image/png", b"PNG", {"detail": "low"})
    assert (audio.media_type, audio.data) == ("audio/mpeg", b"a,b")
    assert (file.media_type, file.data, file.identifier) == ("text/csv", b"a,b", "a.csv")


@pytest.mark.parametrize("url", ["data:image/png,hello", "data:image/png;base64,a", "data:image/png;base64,"])
async def test_a_data_url_that_is_none_is_the_clients_fault(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await parts(message("user", [{"type": "input_image", "image_url": url}]))
    assert refused.value.param == "input"


async def test_settings_go_by_their_names() -> None:
    one = await heard(
        message("user", "Hi"),
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=7,
        stop=["x"],
        seed=3,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        service_tier="flex",
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    assert one.info.model_settings == {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop_sequences": ["x"],
        "seed": 3,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "service_tier": "flex",
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    [tool] = one.info.function_tools
    assert (tool.name, tool.description, tool.parameters_json_schema) == (TOOL.name, TOOL.description, TOOL.parameters)


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({"tool_choice": "get_weather"}, ["get_weather"]),
        ({"tool_choice": "none", "allowed_tools": ["get_weather"]}, "none"),
        ({"tool_choice": "required", "allowed_tools": ["get_weather"]}, ["get_weather"]),
    ],
)
async def test_the_choice_of_tools(settings: dict[str, Any], chosen: Any) -> None:
    one = await heard(message("user", "Hi"), tools=[TOOL], **settings)
    assert one.info.model_settings["tool_choice"] == chosen


async def test_allowed_tools_leave_text_allowed() -> None:
    one = await heard(message("user", "Hi"), tools=[TOOL], allowed_tools=["get_weather"])
    assert one.info.model_settings["tool_choice"].function_tools == ["get_weather"]


@pytest.mark.parametrize(
    ("settings", "thinking"),
    [
        ({"reasoning_effort": "low"}, "low"),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_tokens": 0}, False),
        ({"reasoning_tokens": 2000, "reasoning_effort": "low"}, True),
        ({}, None),
    ],
)
async def test_effort_is_thinking(settings: dict[str, Any], thinking: Any) -> None:
    one = Heard(profile=ModelProfile(supports_thinking=True))
    await collected(adapter(one.model), prompt(message("user", "Hi"), **settings))
    assert one.info.model_request_parameters.thinking == thinking


async def test_thoughts_stream_and_are_handed_back_with_the_call_that_follows() -> None:
    sealing = Heard(
        {0: DeltaThinkingPart(content="Hm, ")}, {0: DeltaThinkingPart(content="weather.", signature="sig")}, "Wait."
    )
    deltas = await collected(adapter(sealing.model), prompt(message("user", "Hi")))
    assert [one.text for one in deltas if isinstance(one, ReasoningDelta)] == ["Hm, ", "weather."]
    [sealed] = [one for one in deltas if isinstance(one, SealedReasoning)]
    assert sealed.data.startswith(SEALED)
    found = await parts(message("user", "Hi"), thought(sealed.data, "Hm, weather."), call("c1"), output("c1", "sunny"))
    first, second = found[1]
    assert (first.part_kind, first.content, first.signature) == ("thinking", "Hm, weather.", "sig")
    assert second.part_kind == "tool-call"


@pytest.mark.parametrize("sealed", ["anthropic:sig", SEALED + "???", SEALED + PIXEL, SEALED + "e30"])
async def test_thoughts_that_are_not_ours_do_no_harm(sealed: str) -> None:
    found = await parts(message("user", "Hi"), thought(sealed, "Hm."), call("c1"), output("c1", "sunny"))
    assert all(getattr(one, "signature", None) is None for one in found[1])


async def test_thoughts_of_earlier_turns_stay_away() -> None:
    sealed = SEALED + base64.b64encode(b'{"signature":"sig"}').decode()
    turn = [message("user", "Hi"), thought(sealed, "Hm."), call("c1"), output("c1", "sunny"), message("assistant", "A")]
    assert [one.part_kind for one in (await parts(*turn, message("user", "And?")))[1]] == ["tool-call"]


async def test_calls_stream_and_those_that_come_whole_are_told_at_the_end() -> None:
    spelled = Heard(
        {0: DeltaToolCall(name="f", json_args='{"a":', tool_call_id="c1")},
        {0: DeltaToolCall(json_args="1}")},
        {1: DeltaToolCall(name="g", json_args="{}", tool_call_id="c2")},
    )
    deltas = await collected(adapter(spelled.model), prompt(message("user", "Hi"), tools=[Tool("f"), Tool("g")]))
    assert [one for one in deltas if isinstance(one, ToolCallDelta)] == [
        ToolCallDelta(0, call_id="c1", name="f"),
        ToolCallDelta(0, '{"a":'),
        ToolCallDelta(0, "1}"),
        ToolCallDelta(1, call_id="c2", name="g"),
        ToolCallDelta(1, "{}"),
    ]
    assert isinstance(deltas[-1], Finish) and deltas[-1].reason == "tool_calls"
    whole = await collected(adapter(StandIn()), prompt(message("user", "Hi"), tools=[TOOL]))
    begun, written, _ = whole
    assert isinstance(begun, ToolCallDelta) and (begun.name, begun.arguments) == ("get_weather", "")
    assert isinstance(written, ToolCallDelta) and isinstance(msgspec.json.decode(written.arguments)["city"], str)


async def test_marks_become_citations() -> None:
    results = [{"file_id": "file-1", "filename": "a.txt", "score": 1.0, "text": "A cat."}]
    searched = {"type": "file_search_call", "id": "fs_1", "queries": ["cat"], "results": results}
    one = Heard("A cat [", "1].")
    deltas = await collected(adapter(one.model), prompt(message("user", "Hi"), searched))
    assert [one for one in deltas if isinstance(one, CitationDelta)] == [CitationDelta("file-1", "a.txt")]
    assert "A cat." in str(one.messages[-1].parts[0])


async def test_a_schema_goes_to_those_that_keep_to_it() -> None:
    one = Heard('{"city":"Rome"}', profile=ModelProfile(supports_json_schema_output=True))
    await collected(adapter(one.model), prompt(message("user", "Hi"), text_format=PLACE))
    asked = one.info.model_request_parameters
    assert (asked.output_mode, asked.output_object.name, asked.output_object.strict) == ("native", "place", True)
    assert asked.output_object.json_schema == PLACE["schema"]


@pytest.mark.parametrize("form", [PLACE, {"type": "json_object"}])
async def test_other_formats_are_refused(form: dict[str, Any]) -> None:
    one = Heard(profile=ModelProfile(supports_json_schema_output=False))
    with pytest.raises(FormatRefused):
        await collected(adapter(one.model), prompt(message("user", "Hi"), text_format=form))


HTTP = failures.ModelHTTPError


@pytest.mark.parametrize(
    ("error", "kind", "fields"),
    [
        (HTTP(400, "m", {"message": "bad top_p"}), InvalidRequest, {"message": "bad top_p"}),
        (
            HTTP(400, "m", {"error": {"message": "prompt is too long"}}),
            InvalidRequest,
            {"code": "context_length_exceeded"},
        ),
        (HTTP(422, "m", None), InvalidRequest, {}),
        (HTTP(401, "m", "sk-no"), UpstreamError, {"status": 502}),
        (HTTP(403, "m"), UpstreamError, {"status": 502}),
        (HTTP(404, "m"), ModelNotFound, {}),
        (
            HTTP(429, "m", [{"error": "slow"}], retry_after=7),
            RateLimited,
            {"headers": {"retry-after": "7", "retry-after-ms": "7000"}},
        ),
        (HTTP(500, "m", {"Message": "oh"}), UpstreamError, {"status": 502}),
        (HTTP(503, "m"), UpstreamError, {"status": 503}),
        (failures.ModelTimeoutError("m", "slow"), UpstreamError, {"status": 504, "reason": "upstream_timeout"}),
        (failures.ModelConnectionError("m", "gone"), UpstreamError, {"reason": "upstream_unavailable"}),
        (failures.ModelAPIError("m", "odd"), UpstreamError, {"status": 502}),
        (failures.UnexpectedModelBehavior("odd"), UpstreamError, {"status": 502}),
        (failures.UserError("no audio"), InvalidRequest, {}),
        (NotImplementedError("no audio"), InvalidRequest, {}),
    ],
    ids=repr,
)
async def test_errors_are_ours(error: Exception, kind: type[BacktalkError], fields: dict[str, Any]) -> None:
    with pytest.raises(kind) as raised:
        await collected(adapter(Heard(error).model), prompt(message("user", "Hi")))
    assert {name: getattr(raised.value, name) for name in fields} == fields
    assert "sk-no" not in raised.value.message


async def test_a_failure_after_the_first_words() -> None:
    reads: list[Any] = []
    with pytest.raises(UpstreamError):
        async for read in adapter(Heard("a", "b", HTTP(500, "m")).model).stream(prompt(message("user", "Hi"))):
            reads += read
    assert [one.text for one in reads] == ["a", "b"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (failures.UserError("Unknown model: nobody"), ModelNotFound),
        (failures.UserError("Set the `X_API_KEY` environment variable"), UpstreamError),
        (ImportError('pip install "pydantic-ai-slim[cohere]"'), UpstreamError),
    ],
)
async def test_a_model_that_cannot_be_made_is_no_failure_of_its_server(error: Exception, kind: type) -> None:
    model = adapter(error)
    for _ in range(FAILURES + 1):
        with pytest.raises(kind, match="nobody" if kind is ModelNotFound else "pip|X_API_KEY"):
            await collected(model, prompt(message("user", "Hi"), model="nobody"))
    assert model.server.health.report().failures == 0


async def test_its_health_is_that_of_its_calls() -> None:
    bad = adapter(Heard(HTTP(500, "m", "broken")).model)
    for _ in range(FAILURES):
        with pytest.raises(UpstreamError):
            await collected(bad, prompt(message("user", "Hi")))
    assert bad.server.health.report().state == "down"
    with pytest.raises(UpstreamError, match="is given a rest"):
        await collected(bad, prompt(message("user", "Hi")))
    good = adapter(Heard().model)
    await collected(good, prompt(message("user", "Hi")))
    assert good.server.health.report().state == "up"


async def test_the_names_that_clients_choose_do_not_pile_up() -> None:
    model = adapter(Heard().model)
    for number in range(250):
        await collected(model, prompt(message("user", "Hi"), model=f"m{number}"))
    assert len(model._known) <= 100


def test_without_the_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['pydantic_ai'] = None\nimport backtalk.models.pydantic_ai"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "backtalk[providers]"' in done.stderr


# ── over a port ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Our own server as the provider's."""
    kept = {name: os.environ.get(name) for name in ("BACKTALK_HOME", "BACKTALK_DISCOVER")}
    os.environ |= {"BACKTALK_HOME": str(tmp_path_factory.mktemp("far")), "BACKTALK_DISCOVER": "false"}
    try:
        with serve(Backtalk(models=[ScriptedModel()])) as url:
            yield f"{url}/v1"
    finally:
        for name, value in kept.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


WIRES = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}


@contextlib.asynccontextmanager
async def opened(url: str, wire: str = "chat") -> AsyncIterator[PydanticAI]:
    """The adapter before Pydantic AI's own client of OpenAI's, without its retries."""
    async with OpenAIProvider(base_url=url, api_key="local") as provider:
        provider.client.max_retries = 0
        yield PydanticAI(Upstream("far", ""), Egress(), lambda name: WIRES[wire](name, provider=provider))


@pytest.fixture(params=list(WIRES))
async def far(request: pytest.FixtureRequest, server: str) -> AsyncIterator[PydanticAI]:
    async with opened(server, request.param) as model:
        yield model


def spoken(deltas: list[Delta]) -> str:
    return "".join(one.text for one in deltas if isinstance(one, TextDelta))


async def test_text_and_usage(far: PydanticAI) -> None:
    deltas = await collected(far, prompt(message("user", "Say exactly: one two"), instructions="Be kind."))
    assert spoken(deltas) == "one two"
    assert isinstance(last := deltas[-1], Finish)
    assert last == Finish("stop", last.usage) and isinstance(last.usage, Usage)
    assert last.usage.input_tokens > 0 and last.usage.output_tokens == 2


async def test_it_stops_at_the_limit(far: PydanticAI) -> None:
    deltas = await collected(far, prompt(message("user", "[[tokens:50]]"), max_output_tokens=16))
    assert isinstance(last := deltas[-1], Finish) and last.reason == "length"


async def test_calls_and_their_outputs(far: PydanticAI) -> None:
    asked = message("user", "What's the weather like in Paris and Rome?")
    deltas = await collected(far, prompt(asked, tools=[TOOL]))
    calls = [one for one in deltas if isinstance(one, ToolCallDelta)]
    written = ["".join(one.arguments for one in calls if one.index == index) for index in (0, 1)]
    assert [msgspec.json.decode(one) for one in written] == [{"city": "Paris"}, {"city": "Rome"}]
    made = [call(one.call_id or "", arguments=written[one.index]) for one in calls if one.name]
    outputs = [output(one["call_id"], f"sunny {number}") for number, one in enumerate(made)]
    answer = spoken(await collected(far, prompt(asked, *made, *outputs, tools=[TOOL])))
    assert "sunny 0" in answer and "sunny 1" in answer


async def test_thinking_with_tools_goes_both_ways(server: str) -> None:
    async with opened(server) as model:
        asked = message("user", "[[think]] What's the weather like in Paris?")
        deltas = await collected(model, prompt(asked, tools=[TOOL]))
        thinking = "".join(one.text for one in deltas if isinstance(one, ReasoningDelta))
        assert thinking == "Let me think about that."
        assert isinstance(last := deltas[-1], Finish) and last.usage and last.usage.reasoning_tokens == 5
        [sealed] = [one.data for one in deltas if isinstance(one, SealedReasoning)]
        turn = [asked, thought(sealed, thinking), call("c1"), output("c1", "sunny")]
        assert "sunny" in spoken(await collected(model, prompt(*turn, tools=[TOOL])))


async def test_images_are_seen(far: PydanticAI) -> None:
    content = [
        {"type": "input_text", "text": "Look"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"},
    ]
    assert "You sent 1 image" in spoken(await collected(far, prompt(message("user", content))))


async def test_schemas_are_kept_to(far: PydanticAI) -> None:
    deltas = await collected(far, prompt(message("user", "I live in Paris"), text_format=PLACE))
    assert msgspec.json.decode(spoken(deltas)) == {"city": "Paris"}


async def test_a_refusal(far: PydanticAI) -> None:
    deltas = await collected(far, prompt(message("user", "[[refuse]]")))
    assert "cannot help" in "".join(one.text for one in deltas if isinstance(one, RefusalDelta))
    assert isinstance(last := deltas[-1], Finish) and last.reason == "stop"


async def test_errors_of_a_server(far: PydanticAI) -> None:
    for text, kind in (("[[fail:before]]", UpstreamError), ("[[fail:429]]", RateLimited)):
        with pytest.raises(kind, match="scripted model"):
            await collected(far, prompt(message("user", text)))
    with pytest.raises(ModelNotFound):
        await collected(far, prompt(message("user", "Hi"), model="nobody"))
    with pytest.raises(InvalidRequest, match="temperature"):
        await collected(far, prompt(message("user", "Hi"), temperature=99.0))


async def test_a_failure_midway(far: PydanticAI) -> None:
    reads: list[Any] = []
    with pytest.raises(UpstreamError, match="told to fail"):
        async for read in far.stream(prompt(message("user", "[[tokens:20]] [[fail:after:5]]"))):
            reads += read
    assert len(reads) == 5


async def test_a_stream_that_is_cut() -> None:
    async def behave(line: Any) -> None:
        await line.head()
        await line.event(delta(content="a"))
        line.cut()

    async with fake_upstream(behave) as fake, opened(fake.url) as model:
        reads: list[Any] = []
        with pytest.raises(UpstreamError) as broken:
            async for read in model.stream(prompt(message("user", "Hi"))):
                reads += read
    assert spoken(reads) == "a" and broken.value.reason == "upstream_unavailable"


async def test_nobody_answers() -> None:
    async with fake_upstream(status(200)) as fake:
        url = fake.url
    async with opened(url) as model:
        with pytest.raises(UpstreamError) as broken:
            await collected(model, prompt(message("user", "Hi")))
    assert broken.value.reason == "upstream_unavailable" and model.server.health.report().failures == 1


async def test_what_a_server_leaves_out_is_made_up_for() -> None:
    bare = events(delta(content="a"), done=False)
    async with fake_upstream(bare, events(delta(content="a"), finish())) as fake, opened(fake.url) as model:
        assert isinstance(last := (await collected(model, prompt(message("user", "Hi"))))[-1], Finish)
        assert last == Finish("stop")
        assert (await collected(model, prompt(message("user", "Hi"))))[-1] == Finish("stop")


async def test_closing_it_closes_the_providers_stream() -> None:
    async def behave(line: Any) -> None:
        await line.head()
        while True:
            await line.event(delta(content="a"))
            await asyncio.sleep(0.01)

    async with fake_upstream(behave) as fake, opened(fake.url) as model:
        stream = model.stream(prompt(message("user", "Hi")))
        assert await anext(stream) == [TextDelta("a")]
        await stream.aclose()
        await asyncio.wait_for(fake.left.wait(), 20)
        assert model.server.health.report().in_flight == 0


async def test_cancelling_it_closes_the_providers_stream() -> None:
    begun = asyncio.Event()

    async def behave(line: Any) -> None:
        await line.head()
        begun.set()
        await asyncio.Event().wait()

    async with fake_upstream(behave) as fake, opened(fake.url) as model:
        task = asyncio.create_task(collected(model, prompt(message("user", "Hi"))))
        await begun.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.wait_for(fake.left.wait(), 20)


@pytest.mark.usefixtures("_url")
class TestPydanticAI(ModelSuite):
    model_name = "scripted"
    url: ClassVar[str] = ""

    @pytest.fixture
    def _url(self, server: str) -> None:
        type(self).url = server

    def open_model(self) -> contextlib.AbstractAsyncContextManager[Model]:
        return opened(self.url)
