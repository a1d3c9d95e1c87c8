import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_upstream import FakeUpstream, fake_upstream, status, tokens

from backtalk.core.errors import ModelNotFound, UpstreamError
from backtalk.domain.model import Finish, TextDelta
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.discovery import from_environ, on_loopback
from backtalk.models.extractive import ExtractiveReader
from backtalk.models.listing import is_chat_model
from backtalk.models.openai_chat import OpenAIChat
from backtalk.models.registry import BUILT_IN, Models, import_string


class Parrot:
    name = "parrot"

    async def stream(self, prompt: Any) -> Any:
        yield [TextDelta("squawk"), Finish()]


PARROT = Parrot()


@contextlib.asynccontextmanager
async def egress_open() -> AsyncIterator[Egress]:
    egress = Egress(connect_timeout=2.0, idle_timeout=5.0)
    yield egress
    await egress.close()


def listing(*names: str) -> Any:
    return status(200, {"object": "list", "data": [{"id": name, "created": 5, "object": "model"} for name in names]})


@contextlib.asynccontextmanager
async def two_upstreams() -> AsyncIterator[tuple[Models, FakeUpstream, FakeUpstream]]:
    a_list, b_list = listing("text-embed", "a1", "both"), listing("b1", "both", "org/b2")
    async with egress_open() as egress, fake_upstream(a_list) as a, fake_upstream(b_list) as b:
        yield Models(egress, [Upstream("a", a.url), Upstream("b", b.url)]), a, b


async def where(models: Models, model_id: str | None) -> tuple[str, str, str]:
    """Name of the upstream, name of the model there, id for the client."""
    model, name, shown = await models.resolve(model_id)
    assert isinstance(model, OpenAIChat)
    return model.server.upstream.name, name, shown


async def test_without_upstreams_the_built_in_reader_answers() -> None:
    async with egress_open() as egress:
        models = Models(egress)
        model, name, shown = await models.resolve(None)
        assert isinstance(model, ExtractiveReader)
        assert (name, shown) == (BUILT_IN, BUILT_IN)
        assert (await models.resolve(BUILT_IN))[0] is model
        for unknown in ("gpt-9", "backtalk/other", "x/y"):
            with pytest.raises(ModelNotFound) as failure:
                await models.resolve(unknown)
            assert BUILT_IN in failure.value.message


async def test_ids_find_their_upstream() -> None:
    async with two_upstreams() as (models, _, _):
        assert await where(models, "b/anything") == ("b", "anything", "b/anything")
        assert await where(models, "b/org/b2") == ("b", "org/b2", "b/org/b2")
        assert await where(models, "org/b2") == ("b", "org/b2", "org/b2")
        assert await where(models, "b1") == ("b", "b1", "b1")
        assert await where(models, "both") == ("a", "both", "both")
        assert await where(models, "listed-by-none") == ("a", "listed-by-none", "listed-by-none")
        assert await where(models, None) == ("a", "a1", "a/a1")
        with pytest.raises(ModelNotFound):
            await models.resolve("backtalk/gpt")


async def test_lists_are_remembered() -> None:
    async with two_upstreams() as (models, a, b):
        for _ in range(5):
            await asyncio.gather(models.list(), models.resolve("b1"), models.resolve(None))
        assert (len(a.requests), len(b.requests)) == (1, 1)


async def test_one_upstream_is_not_asked_for_its_list() -> None:
    async with egress_open() as egress, fake_upstream(status(500)) as only:
        models = Models(egress, [Upstream("only", only.url)])
        assert await where(models, "m") == ("only", "m", "m")
        assert not only.requests


async def test_the_list_shows_everything_and_survives_a_dead_upstream() -> None:
    async with (
        egress_open() as egress,
        fake_upstream(listing("m1", "models/m2")) as alive,
        fake_upstream(status(500)) as bad,
    ):
        models = Models(
            egress,
            [Upstream("alive", alive.url), Upstream("bad", bad.url), Upstream("named", "http://x/v1", models=("n1",))],
            [Parrot],
        )
        cards = {card.id: (card.owned_by, card.created) for card in await models.list()}
    assert cards == {
        "parrot": ("user", 0),
        "alive/m1": ("alive", 5),
        "alive/m2": ("alive", 5),
        "named/n1": ("named", 0),
        BUILT_IN: ("backtalk", 0),
    }


async def test_a_silent_upstream_is_waited_for_briefly() -> None:
    async def mute(_: Any) -> None:
        await asyncio.sleep(60)

    async with egress_open() as egress, fake_upstream(mute) as silent:
        async with asyncio.timeout(10):
            assert [card.id for card in await Models(egress, [Upstream("s", silent.url)]).list()] == [BUILT_IN]


async def test_the_default_counts_when_no_model_is_named() -> None:
    async with egress_open() as egress, fake_upstream(status(500)) as bad:
        named = Upstream("n", "http://x/v1", models=("n1", "n2"))
        assert await where(Models(egress, [named]), None) == ("n", "n1", "n/n1")
        assert await where(Models(egress, [named], default=["n/other"]), None) == ("n", "other", "n/other")
        assert (await Models(egress, default=["parrot"], models=[PARROT]).resolve(None))[0] is PARROT
        with pytest.raises(UpstreamError, match="BACKTALK_MODEL"):
            await Models(egress, [Upstream("bad", bad.url)]).resolve(None)


@pytest.mark.parametrize("given", [Parrot, PARROT, "test_registry:Parrot", "test_registry:PARROT"])
async def test_own_models_in_every_form(given: Any) -> None:
    async with egress_open() as egress:
        model, name, shown = await Models(egress, [Upstream("u", "http://x/v1")], [given]).resolve("parrot")
        assert isinstance(model, Parrot)
        assert (name, shown) == ("parrot", "parrot")


@pytest.mark.parametrize(
    "given", ["nowhere", "test_registry:", ":x", "test_registry:gone", "gone.module:x", "json:dumps", 3]
)
async def test_what_is_no_model_is_refused_at_start(given: Any) -> None:
    async with egress_open() as egress:
        with pytest.raises((ValueError, ImportError, AttributeError, TypeError)):
            Models(egress, models=[given])


def test_import_strings_reach_into_classes() -> None:
    assert import_string("test_registry:Parrot.name") == "parrot"


async def test_a_resolved_upstream_answers() -> None:
    async with egress_open() as egress, fake_upstream(tokens("hi")) as upstream:
        models = Models(egress)
        models.add_upstream(Upstream("u", upstream.url))
        models.add_upstream(Upstream("u", "http://other"))
        model, name, _ = await models.resolve("u/m")
        from backtalk.domain.model import Prompt

        deltas = [d async for read in model.stream(Prompt(model=name, items=[])) for d in read]
    assert deltas[0] == TextDelta("hi")
    assert upstream.requests[0].body["model"] == "m"


def test_keys_in_the_environment_are_upstreams() -> None:
    found = from_environ({"GEMINI_API_KEY": " g ", "OPENAI_API_KEY": "o", "MISTRAL_API_KEY": "", "OTHER_API_KEY": "x"})
    assert [(u.name, u.api_key) for u in found] == [("openai", "o"), ("gemini", "g")]
    assert found[0].url == "https://api.openai.com/v1"
    assert from_environ({}) == []


def test_a_base_url_that_leads_back_to_us_is_no_upstream() -> None:
    back = {"OPENAI_BASE_URL": "http://localhost:8000/v1", "OPENAI_API_KEY": "local"}
    assert from_environ(back, own_port=8000) == []
    assert [u.url for u in from_environ(back, own_port=9000)] == ["http://localhost:8000/v1"]
    assert from_environ({"OPENAI_BASE_URL": "http://127.0.0.1:1234/v1"}, 8000)[0].api_key is None


async def test_servers_on_loopback_are_found() -> None:
    def port(upstream: FakeUpstream) -> int:
        return int(upstream.url.rsplit(":", 1)[1].partition("/")[0])

    async def mute(_: Any) -> None:
        await asyncio.sleep(60)

    async with (
        egress_open() as egress,
        fake_upstream(listing("llama")) as ollama,
        fake_upstream(status(200, b"<html>", "text/html")) as website,
        fake_upstream(listing("backtalk/extractive")) as another,
        fake_upstream(mute) as silent,
        fake_upstream(listing("own")) as own,
    ):
        async with fake_upstream(listing()) as gone:
            pass
        ports = {"ollama": ollama, "web": website, "backtalk": another, "mute": silent, "own": own, "gone": gone}
        probes = tuple((name, port(fake)) for name, fake in ports.items())
        found = await on_loopback(egress, port(own), probes)
        assert not own.requests
    assert [(u.name, u.url) for u in found] == [("ollama", ollama.url)]


@pytest.mark.parametrize(
    ("name", "talks"),
    [("gpt-5", True), ("llama3.2:3b", True), ("text-embedding-3-small", False), ("nomic-embed-text", False),
     ("whisper-1", False), ("dall-e-3", False), ("gpt-4o-mini-tts", False), ("omni-moderation-latest", False)],
)  # fmt: skip
def test_which_models_talk(name: str, talks: bool) -> None:
    assert is_chat_model(name) is talks
