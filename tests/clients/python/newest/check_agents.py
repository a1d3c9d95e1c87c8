"""OpenAI's Agents SDK over its three transports: Responses, the WebSocket of Responses, and Chat Completions."""

from collections.abc import AsyncIterator

import pytest
from agents import (
    Agent,
    FileSearchTool,
    FunctionTool,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIConversationsSession,
    OpenAIResponsesCompactionSession,
    OpenAIResponsesModel,
    OpenAIResponsesWSModel,
    Runner,
    RunResultStreaming,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from agents.models.interface import Model
from openai import AsyncOpenAI, NotFoundError
from openai.types.shared import Reasoning
from pydantic import BaseModel
from talk import BASE_URL, KEY, MODEL, PLACES, weather

set_tracing_disabled(True)
WIRES = {
    "responses": OpenAIResponsesModel,
    "socket": OpenAIResponsesWSModel,
    "chat": OpenAIChatCompletionsModel,
}


class Trip(BaseModel):
    city: str
    days: int


@pytest.fixture
async def client() -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(params=WIRES)
async def model(request: pytest.FixtureRequest, client: AsyncOpenAI) -> AsyncIterator[Model]:
    model = WIRES[request.param](MODEL, client)
    yield model
    await model.close()


@pytest.fixture(params=["responses", "socket"])
async def stateful(request: pytest.FixtureRequest, client: AsyncOpenAI) -> AsyncIterator[Model]:
    """A model whose talks the server keeps."""
    model = WIRES[request.param](MODEL, client)
    yield model
    await model.close()


def the_weather() -> FunctionTool:
    return function_tool(weather, name_override="get_weather")


def both() -> str:
    return "\n".join(f"get_weather says: It is sunny in {place}." for place in ("Paris", "San Francisco"))


async def test_a_tool_loop(model: Model) -> None:
    result = await Runner.run(Agent("Guide", model=model, tools=[the_weather()]), PLACES)
    assert result.final_output == both()
    assert [type(item).__name__ for item in result.new_items] == [
        "ToolCallItem",
        "ToolCallItem",
        "ToolCallOutputItem",
        "ToolCallOutputItem",
        "MessageOutputItem",
    ]
    usage = result.context_wrapper.usage
    assert usage.requests == 2
    assert usage.input_tokens > 0
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


async def followed(result: RunResultStreaming) -> tuple[list[str], str]:
    """The names of what happened, and the text as it came."""
    names, text = [], ""
    async for event in result.stream_events():
        if event.type == "run_item_stream_event":
            names.append(event.name)
        elif event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    return names, text


async def test_a_streamed_tool_loop(model: Model) -> None:
    agent = Agent("Guide", model=model, tools=[the_weather()], model_settings=ModelSettings(include_usage=True))
    result = Runner.run_streamed(agent, PLACES)
    names, text = await followed(result)
    assert text == result.final_output == both()
    assert names.count("tool_called") == names.count("tool_output") == 2
    assert names[-1] == "message_output_created"
    assert result.context_wrapper.usage.output_tokens > 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_handoff(model: Model, streamed: bool) -> None:
    forecaster = Agent(
        "Weather forecaster",
        model=model,
        tools=[the_weather()],
        model_settings=ModelSettings(tool_choice="required"),
    )
    front = Agent("Front desk", model=model, handoffs=[forecaster])
    if streamed:
        result = Runner.run_streamed(front, PLACES)
        names, _ = await followed(result)
        assert "handoff_requested" in names
    else:
        result = await Runner.run(front, PLACES)
    assert result.last_agent is forecaster
    assert result.final_output.endswith(both())


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_output_type(model: Model, streamed: bool) -> None:
    agent = Agent("Planner", model=model, output_type=Trip)
    question = "Plan a trip to Paris for 3 days."
    if streamed:
        result = Runner.run_streamed(agent, question)
        await followed(result)
    else:
        result = await Runner.run(agent, question)
    assert result.final_output == Trip(city="Paris", days=3)


async def test_an_output_type_after_tools(model: Model) -> None:
    agent = Agent("Planner", model=model, output_type=Trip, tools=[the_weather()])
    result = await Runner.run(agent, "What's the weather in Paris for 3 days?")
    assert result.final_output == Trip(city="Paris", days=3)
    assert len(result.raw_responses) == 2


async def test_an_agent_as_a_tool(model: Model) -> None:
    inner = Agent("Inner", model=model)
    tool = inner.as_tool("translate", "Translates a text.")
    result = await Runner.run(Agent("Outer", model=model, tools=[tool]), "Please translate this.")
    assert result.final_output == "translate says: You said: Please translate this."


async def test_items_go_back_as_they_came(model: Model) -> None:
    """`to_input_list` sends a whole run back: calls, outputs, messages, with their ids."""
    agent = Agent("Guide", model=model, tools=[the_weather()])
    first = await Runner.run(agent, f"My name is Ada. {PLACES}")
    second = await Runner.run(agent, [*first.to_input_list(), {"role": "user", "content": "What is my name?"}])
    assert second.final_output == "Your name is Ada."


async def test_a_session_of_the_clients(model: Model) -> None:
    session = SQLiteSession("talk")
    agent = Agent("Guide", model=model, tools=[the_weather()])
    await Runner.run(agent, f"My name is Ada. {PLACES}", session=session)
    assert (await Runner.run(agent, "What is my name?", session=session)).final_output == "Your name is Ada."
    session.close()


async def test_a_session_that_is_a_conversation(stateful: Model, client: AsyncOpenAI) -> None:
    """The items of a run are written to a conversation of the server's, and read from it."""
    session = OpenAIConversationsSession(openai_client=client)
    agent = Agent("Guide", model=stateful, tools=[the_weather()])
    await Runner.run(agent, f"My name is Ada. {PLACES}", session=session)
    streamed = Runner.run_streamed(agent, "What is my name?", session=session)
    assert (await followed(streamed))[1] == "Your name is Ada."
    items = await session.get_items()
    assert [item.get("type") for item in items] == [
        "message",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
        "message",
        "message",
        "message",
    ]
    assert [item["role"] for item in await session.get_items(limit=2)] == ["user", "assistant"]
    assert (await session.pop_item() or {})["role"] == "assistant"
    assert len(await session.get_items()) == 7
    await session.clear_session()


async def test_a_previous_response(stateful: Model) -> None:
    agent = Agent("Guide", model=stateful, tools=[the_weather()])
    first = await Runner.run(agent, f"My name is Ada. {PLACES}", auto_previous_response_id=True)
    assert first.final_output == both()
    second = await Runner.run(agent, "What is my name?", previous_response_id=first.last_response_id)
    assert second.final_output == "Your name is Ada."


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_conversation(stateful: Model, client: AsyncOpenAI, streamed: bool) -> None:
    """With a conversation the SDK sends only what is new, within a tool loop, too."""
    conversation = await client.conversations.create()
    agent = Agent("Guide", model=stateful, tools=[the_weather()])
    for question, answer in ((f"My name is Ada. {PLACES}", both()), ("What is my name?", "Your name is Ada.")):
        if streamed:
            result = Runner.run_streamed(agent, question, conversation_id=conversation.id)
            await followed(result)
        else:
            result = await Runner.run(agent, question, conversation_id=conversation.id)
        assert result.final_output == answer
    items = [item async for item in client.conversations.items.list(conversation.id, order="asc")]
    assert [item.type for item in items] == ["message", *["function_call"] * 2, *["function_call_output"] * 2] + [
        "message"
    ] * 3


async def test_a_session_that_is_compacted(client: AsyncOpenAI) -> None:
    session = OpenAIResponsesCompactionSession(
        "talk", SQLiteSession("talk"), client=client, should_trigger_compaction=lambda _: True
    )
    session.model = MODEL  # the constructor takes OpenAI's names only
    agent = Agent("Guide", model=OpenAIResponsesModel(MODEL, client))
    await Runner.run(agent, "My name is Ada.", session=session)
    kinds = [item.get("type") for item in await session.get_items()]
    assert "compaction" in kinds
    result = await Runner.run(agent, "What is my name?", session=session)
    assert result.final_output == "Your name is Ada."


@pytest.mark.parametrize("store", [False, True])
async def test_thinking_goes_back(stateful: Model, store: bool) -> None:
    """Reasoning items, sealed where nothing is kept, are sent back beside the calls that they led to."""
    settings = ModelSettings(
        store=store,
        reasoning=Reasoning(effort="low", summary="auto"),
        response_include=["reasoning.encrypted_content"],
    )
    agent = Agent("Thinker", model=stateful, tools=[the_weather()], model_settings=settings)
    result = await Runner.run(agent, f"[[summarise]] {PLACES}")
    assert [type(item).__name__ for item in result.new_items].count("ReasoningItem") == 2
    assert result.final_output == both()


async def test_files_are_searched(stateful: Model, client: AsyncOpenAI) -> None:
    file = await client.files.create(file=("opening.txt", b"The museum opens at nine."), purpose="assistants")
    store = await client.vector_stores.create(name="museum")
    await client.vector_stores.files.create_and_poll(file.id, vector_store_id=store.id)
    tool = FileSearchTool(vector_store_ids=[store.id], max_num_results=3, include_search_results=True)
    result = await Runner.run(Agent("Guide", model=stateful, tools=[tool]), "When does the museum open?")
    assert "The museum opens at nine." in result.final_output
    found, said = result.new_items
    assert found.raw_item.results[0].filename == "opening.txt"
    assert said.raw_item.content[0].annotations[0].file_id == file.id


async def test_settings(model: Model) -> None:
    """What `ModelSettings` can say is taken."""
    settings = ModelSettings(
        temperature=0.1,
        top_p=0.9,
        max_tokens=10,
        parallel_tool_calls=False,
        metadata={"test": "agents"},
        verbosity="low",
        store=True,
        prompt_cache_retention="24h",
        extra_headers={"X-Test": "yes"},
        extra_query={"test": "yes"},
        extra_body={"user": "ada"},
    )
    agent = Agent("Guide", instructions="Be brief.", model=model, model_settings=settings)
    result = await Runner.run(agent, "[[tokens:10]]")
    assert result.final_output.endswith("word9 ")


async def test_an_error_says_what_is_wrong(client: AsyncOpenAI) -> None:
    for wire in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        with pytest.raises(NotFoundError, match="Models here: scripted"):
            await Runner.run(Agent("Guide", model=wire("no-such-model", client)), "Hello")
