"""langchain-openai under LangChain's own standard tests, over both wires, and its embeddings."""

import base64
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests
from openai import OpenAI
from talk import BASE_URL, EMBEDDINGS, KEY, MODEL, weather

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
FILES = {"pdf": b"%PDF-1.4\n%%EOF\n", "png": PNG, "wav": b"RIFF\x24\x00\x00\x00WAVEfmt "}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard tests fetch a picture, a document and a sound from the Internet: here are others."""

    def get(url: str, **_: Any) -> httpx.Response:
        return httpx.Response(200, content=FILES[url.rpartition(".")[2]])

    monkeypatch.setattr(httpx, "get", get)
    monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "none")


def joined(chunks: Iterable[AIMessageChunk]) -> AIMessage:
    first, *rest = chunks
    for chunk in rest:
        first += chunk
    return first


class Standard(ChatModelIntegrationTests):
    supports_json_mode = True
    supports_image_inputs = True
    supports_image_urls = True
    supports_image_tool_message = True
    supports_pdf_inputs = True
    supports_pdf_tool_message = True
    supports_audio_inputs = True
    supports_anthropic_inputs = True
    model_override_value = "backtalk/extractive"
    supported_usage_metadata_details = {  # noqa: RUF012  # a property of the suite
        "invoke": ["reasoning_output", "cache_read_input"],
        "stream": ["reasoning_output", "cache_read_input"],
    }

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "base_url": BASE_URL, "api_key": KEY, "stream_usage": True}

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        return self._said("[[think]] Hello", stream)

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        return self._said("Hello", stream)

    def _said(self, question: str, stream: bool) -> AIMessage:
        model = ChatOpenAI(**self.chat_model_params)
        return joined(model.stream(question)) if stream else model.invoke(question)


class TestChatCompletions(Standard):
    def test_says_what_it_is_told(self) -> None:
        model = ChatOpenAI(**self.chat_model_params)
        assert model.invoke("Say exactly: one two").text == "one two"
        assert "".join(chunk.text for chunk in model.stream("Say exactly: one two")) == "one two"

    def test_log_probabilities(self) -> None:
        model = ChatOpenAI(**self.chat_model_params, logprobs=True, top_logprobs=1)
        tokens = model.invoke("Say exactly: one two").response_metadata["logprobs"]["content"]
        assert "".join(token["token"] for token in tokens) == "one two"
        chunks = joined(model.stream("Say exactly: one two"))
        assert chunks.response_metadata["logprobs"]["content"] == tokens

    def test_answers_side_by_side(self) -> None:
        answers = ChatOpenAI(**self.chat_model_params, n=2).generate([[HumanMessage("Hello")]]).generations[0]
        assert [answer.text for answer in answers] == ["You said: Hello"] * 2


class TestResponses(Standard):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return super().chat_model_params | {"use_responses_api": True}

    @pytest.mark.parametrize("stream", [False, True])
    def test_goes_on_from_a_response(self, stream: bool) -> None:
        """With `use_previous_response_id` only what is new is sent."""
        model = ChatOpenAI(**self.chat_model_params, use_previous_response_id=True)
        first = self._said("My name is Ada.", stream)
        assert first.response_metadata["id"].startswith("resp_")
        talk = [HumanMessage("Not sent again."), first, HumanMessage("What is my name?")]
        assert model.invoke(talk).text == "Your name is Ada."

    def test_thinking_is_shown(self) -> None:
        model = ChatOpenAI(**self.chat_model_params, reasoning={"summary": "auto"}, output_version="v1")
        blocks = model.invoke("[[summarise]] Hello").content_blocks
        assert [block["type"] for block in blocks] == ["reasoning", "reasoning", "text"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_sealed_thinking_goes_back(self, stream: bool) -> None:
        """Nothing is kept by the server: the reasoning item and the call that it led to are sent back."""
        sealed = {"reasoning": {"summary": "auto"}, "store": False, "include": ["reasoning.encrypted_content"]}
        model = ChatOpenAI(**self.chat_model_params, **sealed).bind_tools([weather])
        question = HumanMessage("[[summarise]] What is the weather in Paris?")
        called = joined(model.stream([question])) if stream else model.invoke([question])
        assert any(block["type"] == "reasoning" for block in called.content_blocks)
        (call,) = called.tool_calls
        answer = model.invoke([question, called, ToolMessage("It is sunny.", tool_call_id=call["id"])])
        assert "weather says: It is sunny." in answer.text

    @pytest.mark.parametrize("stream", [False, True])
    def test_files_are_searched(self, stream: bool) -> None:
        client = OpenAI(base_url=BASE_URL, api_key=KEY)
        file = client.files.create(file=("opening.txt", b"The museum opens at nine."), purpose="assistants")
        store = client.vector_stores.create(name="museum")
        client.vector_stores.files.create_and_poll(file.id, vector_store_id=store.id)
        tool = {"type": "file_search", "vector_store_ids": [store.id]}
        model = ChatOpenAI(**self.chat_model_params, output_version="v1").bind_tools([tool])
        question = "When does the museum open?"
        said = joined(model.stream(question)) if stream else model.invoke(question)
        assert "The museum opens at nine." in said.text
        (text,) = (block for block in said.content_blocks if block["type"] == "text")
        assert text["annotations"][0]["title"] == "opening.txt"
        again = model.invoke([HumanMessage(question), said, HumanMessage("Thank you.")])
        assert again.text == "You said: Thank you."

    def test_a_custom_tool(self) -> None:
        model = ChatOpenAI(**self.chat_model_params).bind_tools([{"type": "custom", "name": "run_python"}])
        (call,) = model.invoke("Please run python for me.").content_blocks
        assert (call["type"], call["name"]) == ("tool_call", "run_python")


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": EMBEDDINGS, "base_url": BASE_URL, "api_key": KEY, "check_embedding_ctx_length": False}
