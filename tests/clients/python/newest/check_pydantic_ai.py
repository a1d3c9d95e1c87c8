"""Pydantic AI over its three transports, with its three ways to ask for structured output."""

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    BinaryContent,
    Embedder,
    FunctionToolCallEvent,
    ModelHTTPError,
    ModelRetry,
    NativeOutput,
    PartDeltaEvent,
    PromptedOutput,
    TextPartDelta,
    ThinkingPart,
    ToolOutput,
)
from pydantic_ai.capabilities import NativeTool
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.messages import CompactionPart, NativeToolReturnPart
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAICompaction, OpenAIResponsesModel
from pydantic_ai.native_tools import FileSearchTool
from pydantic_ai.providers.openai import OpenAIProvider
from talk import BASE_URL, EMBEDDINGS, KEY, MODEL, PLACES, weather

BOTH = "\n".join(f"get_weather says: It is sunny in {place}." for place in ("Paris", "San Francisco"))
TRIP = "Plan a trip to Paris for 3 days."


class Trip(BaseModel):
    city: str
    days: int


@pytest.fixture
async def client() -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0) as client:
        yield client


def made(wire: str, client: AsyncOpenAI, **settings: object) -> Model:
    provider = OpenAIProvider(openai_client=client)
    if wire == "chat":
        return OpenAIChatModel(MODEL, provider=provider, settings=settings)
    if wire == "socket":
        settings["openai_transport"] = "websocket"
    return OpenAIResponsesModel(MODEL, provider=provider, settings=settings)


@pytest.fixture(params=["responses", "socket", "chat"])
async def model(request: pytest.FixtureRequest, client: AsyncOpenAI) -> AsyncIterator[Model]:
    async with made(request.param, client) as model:
        yield model


def guide(model: Model, **options: object) -> Agent:
    agent = Agent(model, **options)
    agent.tool_plain(weather, name="get_weather")
    return agent


async def test_a_tool_loop(model: Model) -> None:
    result = await guide(model, instructions="Be brief.").run(PLACES)
    assert result.output == BOTH
    assert result.usage.requests == 2
    assert result.usage.output_tokens > 0


async def test_a_streamed_tool_loop(model: Model) -> None:
    async with guide(model).run_stream(PLACES) as result:
        said = [text async for text in result.stream_text(delta=True, debounce_by=None)]
    assert "".join(said) == BOTH
    assert len(said) > 5


async def test_the_events_of_a_run(model: Model) -> None:
    called, text = [], ""
    async with guide(model).run_stream_events(PLACES) as events:
        async for event in events:
            if isinstance(event, FunctionToolCallEvent):
                called.append(event.part.args_as_dict()["location"])
            elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                text += event.delta.content_delta
    assert called == ["Paris", "San Francisco"]
    assert BOTH.endswith(text)


@pytest.mark.parametrize("way", [ToolOutput, NativeOutput, PromptedOutput])
async def test_structured_output(model: Model, way: type) -> None:
    assert (await Agent(model, output_type=way(Trip)).run(TRIP)).output == Trip(city="Paris", days=3)


@pytest.mark.parametrize("way", [ToolOutput, NativeOutput])
async def test_streamed_structured_output(model: Model, way: type) -> None:
    async with Agent(model, output_type=way(Trip)).run_stream(TRIP) as result:
        seen = [trip async for trip in result.stream_output(debounce_by=None)]
    assert seen[-1] == Trip(city="Paris", days=3)


@pytest.mark.parametrize("way", [ToolOutput, NativeOutput])
async def test_structured_output_after_a_tool(model: Model, way: type) -> None:
    result = await guide(model, output_type=way(Trip)).run("What's the weather in Paris for 3 days?")
    assert result.output == Trip(city="Paris", days=3)
    assert result.usage.tool_calls >= 1


async def test_a_tool_that_asks_again(model: Model) -> None:
    agent = Agent(model)
    tries = []

    @agent.tool_plain
    def weather_station(city: str) -> str:
        tries.append(city)
        raise ModelRetry("Name a station.")

    result = await agent.run("What does the weather station of Paris say?")
    assert tries == ["Paris"]
    assert "Name a station." in result.output


async def test_a_history_goes_back(model: Model) -> None:
    agent = guide(model)
    first = await agent.run(f"My name is Ada. {PLACES}")
    second = await agent.run("What is my name?", message_history=first.all_messages())
    assert second.output == "Your name is Ada."


async def test_an_image_and_a_file(model: Model) -> None:
    picture = BinaryContent(b"\x89PNG\r\n\x1a\n", media_type="image/png")
    paper = BinaryContent(b"%PDF-1.4", media_type="application/pdf")
    said = (await Agent(model).run(["Look", picture, paper])).output
    assert said.startswith("You said: Look You sent 1 image. You sent the file ")


@pytest.mark.parametrize("wire", ["responses", "socket", "chat"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_thinking_comes_and_goes_back(client: AsyncOpenAI, wire: str, streamed: bool) -> None:
    settings = {"openai_reasoning_effort": "low"} | ({} if wire == "chat" else {"openai_reasoning_summary": "auto"})
    async with made(wire, client, **settings) as model:
        agent = guide(model)
        question = f"[[think]] [[summarise]] {PLACES}"
        if streamed:
            async with agent.run_stream(question) as result:
                output = await result.get_output()
        else:
            result = await agent.run(question)
            output = result.output
        assert output == BOTH
        thoughts = [
            part for message in result.all_messages() for part in message.parts if isinstance(part, ThinkingPart)
        ]
        assert thoughts
        again = await agent.run("What is my name?", message_history=result.all_messages())
    assert again.output == "You have not told me your name."


@pytest.mark.parametrize("wire", ["responses", "socket"])
@pytest.mark.parametrize("kept", ["openai_previous_response_id", "openai_conversation_id"])
async def test_the_server_keeps_the_talk(client: AsyncOpenAI, wire: str, kept: str) -> None:
    talk = await client.conversations.create()
    first = "auto" if kept == "openai_previous_response_id" else talk.id
    async with made(wire, client) as model:
        agent = guide(model)
        told = await agent.run(f"My name is Ada. {PLACES}", model_settings={kept: first})
        assert told.output == BOTH
        response = told.all_messages()[-1]
        later = response.provider_response_id if kept == "openai_previous_response_id" else talk.id
        asked = await agent.run("What is my name?", model_settings={kept: later})
        assert asked.output == "Your name is Ada."
        history = await agent.run(
            "What is my name?", message_history=told.all_messages(), model_settings={kept: "auto"}
        )
        assert history.output == "Your name is Ada."


async def test_a_background_response(client: AsyncOpenAI) -> None:
    model = made("responses", client, openai_background=True)
    assert (await Agent(model).run("[[tokens:20]] [[pace:0.01]]")).output.endswith("word19 ")


@pytest.mark.parametrize("wire", ["responses", "socket"])
async def test_files_are_searched(client: AsyncOpenAI, wire: str) -> None:
    file = await client.files.create(file=("opening.txt", b"The museum opens at nine."), purpose="assistants")
    store = await client.vector_stores.create(name="museum")
    await client.vector_stores.files.create_and_poll(file.id, vector_store_id=store.id)
    async with made(wire, client, openai_include_file_search_results=True) as model:
        agent = Agent(model, capabilities=[NativeTool(FileSearchTool(file_store_ids=[store.id]))])
        result = await agent.run("When does the museum open?")
        assert "The museum opens at nine." in result.output
        parts = [part for message in result.all_messages() for part in message.parts]
        found = next(part for part in parts if isinstance(part, NativeToolReturnPart))
        assert "opening.txt" in str(found.content)
        again = await agent.run("Thank you.", message_history=result.all_messages())
    assert again.output == "You said: Thank you."


@pytest.mark.parametrize("how", [{"token_threshold": 1000}, {"message_count_threshold": 1}])
async def test_a_long_talk_is_compacted(client: AsyncOpenAI, how: dict[str, int]) -> None:
    agent = Agent(made("responses", client), capabilities=[OpenAICompaction(**how)])
    first = await agent.run("My name is Ada. " + "We talk at length. " * 400)
    second = await agent.run("Go on.", message_history=first.all_messages())
    third = await agent.run("What is my name?", message_history=second.all_messages())
    assert third.output == "Your name is Ada."
    parts = [part for message in third.all_messages() for part in message.parts]
    assert any(isinstance(part, CompactionPart) for part in parts)


async def test_embeddings(client: AsyncOpenAI) -> None:
    embedder = Embedder(OpenAIEmbeddingModel(EMBEDDINGS, provider=OpenAIProvider(openai_client=client)))
    result = await embedder.embed_documents(["cats", "dogs"])
    assert len(result.embeddings) == 2
    assert len(result["cats"]) == len((await embedder.embed_query("cats")).embeddings[0]) > 0
    assert result.usage.input_tokens > 0


async def test_errors_are_what_the_library_knows(model: Model) -> None:
    with pytest.raises(ModelHTTPError) as caught:
        await Agent(model).run("[[fail:429]]")
    assert caught.value.status_code == 429


async def test_settings(model: Model) -> None:
    settings = {
        "max_tokens": 10,
        "temperature": 0.1,
        "top_p": 0.9,
        "seed": 7,
        "parallel_tool_calls": False,
        "service_tier": "auto",
        "openai_user": "ada",
        "openai_text_verbosity": "low",
        "openai_store": True,
        "openai_logprobs": True,
        "openai_top_logprobs": 1,
        "openai_prompt_cache_key": "key",
        "openai_truncation": "auto",
    }
    assert (await Agent(model, model_settings=settings).run("[[tokens:10]]")).output.endswith("word9 ")
