"""langchain-openai under LangChain's own standard tests, over both wires, and its embeddings."""

import base64
from typing import Any

import httpx
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

from talk import BASE_URL, EMBEDDINGS, KEY, MODEL

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


class Standard(ChatModelIntegrationTests):
    supports_json_mode = True
    supports_image_inputs = True
    supports_image_urls = True
    supports_image_tool_message = True
    supports_pdf_inputs = True
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
        if not stream:
            return model.invoke(question)
        first, *rest = model.stream(question)
        for chunk in rest:
            first += chunk
        return first


class TestChatCompletions(Standard):
    supports_audio_inputs = True

    def test_says_what_it_is_told(self) -> None:
        model = ChatOpenAI(**self.chat_model_params)
        assert model.invoke("Say exactly: one two").text == "one two"
        assert "".join(chunk.text for chunk in model.stream("Say exactly: one two")) == "one two"


class TestResponses(Standard):
    supports_pdf_tool_message = True

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


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": EMBEDDINGS, "base_url": BASE_URL, "api_key": KEY, "check_embedding_ctx_length": False}
