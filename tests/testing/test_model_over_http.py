"""The scripted model served by one Backtalk and called by another one's adapter: both ends of the wire are ours."""

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from backtalk.core.errors import RateLimited, UpstreamError
from backtalk.domain.model import Delta, Model, Prompt, TextDelta
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.openai_chat import OpenAIChat
from backtalk.testing import ModelSuite, Server


@pytest.fixture(scope="module", autouse=True)
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel"}
    with Server(tmp_path_factory.mktemp("upstream"), env) as server:
        TestOverHTTP.url = f"{server.url}/v1"
        yield server


@contextlib.asynccontextmanager
async def adapter(url: str) -> AsyncIterator[Model]:
    egress = Egress(connect_timeout=5.0, idle_timeout=10.0)
    try:
        yield OpenAIChat(Upstream("far", url), egress)
    finally:
        await egress.close()


class TestOverHTTP(ModelSuite):
    model_name = "scripted"
    url = ""

    def open_model(self) -> contextlib.AbstractAsyncContextManager[Model]:
        return adapter(self.url)


async def said(url: str, text: str, got: list[Delta]) -> None:
    message = {"type": "message", "role": "user", "content": text}
    async with adapter(url) as model:
        async for read in model.stream(Prompt(model="scripted", items=[message])):
            got += read


async def test_every_word_crosses_the_wire_as_a_delta_of_its_own(scripted: Server) -> None:
    got: list[Delta] = []
    await said(f"{scripted.url}/v1", "[[tokens:40]]", got)
    assert [d.text for d in got if isinstance(d, TextDelta)] == [f"word{n} " for n in range(40)]


async def test_failures_cross_the_wire(scripted: Server) -> None:
    got: list[Delta] = []
    with pytest.raises(UpstreamError):
        await said(f"{scripted.url}/v1", "[[tokens:9]] [[fail:after:5]]", got)
    assert len(got) == 5
    with pytest.raises(RateLimited):
        await said(f"{scripted.url}/v1", "[[fail:429]]", [])
    with pytest.raises(UpstreamError):
        await said(f"{scripted.url}/v1", "[[fail:before]]", [])
