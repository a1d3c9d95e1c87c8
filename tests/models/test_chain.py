"""Several models under one name, and the keys of their servers, through the front door."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from fake_upstream import USAGE, Behaviour, FakeUpstream, Line, delta, events, fake_upstream, finish, status, tokens

from backtalk import Backtalk
from backtalk.core.settings import Settings
from backtalk.models.retry import Tries
from backtalk.testing import async_client, check_transcript, read_transcript
from running import served

GOOD, OTHER = tokens("I am ", "the first."), tokens("I am ", "the second.")
SOON = {"retry_after_ms": "1"}
TOO_LONG = {"error": {"message": "too long", "code": "context_length_exceeded"}}


class House:
    """A Backtalk with the fakes `a` and `b` behind it."""

    def __init__(self, url: str, fakes: dict[str, FakeUpstream]) -> None:
        self.url = url
        self.fakes = fakes
        self.sdk = async_client(url)

    def asked(self) -> dict[str, int]:
        return {name: len(fake.requests) for name, fake in self.fakes.items()}

    async def ask(self, model: str | None = "fast", **fields: Any) -> Any:
        body: Any = {"input": "hi", **({"model": model} if model else {}), **fields}
        return await self.sdk.responses.create(**body)

    async def stream(self, model: str = "fast") -> list[dict[str, Any]]:
        """The events of a streamed response, their grammar checked."""
        async with httpx2.AsyncClient() as http:
            reply = await http.post(f"{self.url}/v1/responses", json={"model": model, "input": "hi", "stream": True})
        found = read_transcript(reply.content)
        check_transcript(found)
        return found


@contextlib.asynccontextmanager
async def house(
    home: Path, a: Behaviour = GOOD, b: Behaviour = OTHER, *, given: Any = None, **settings: Any
) -> AsyncIterator[House]:
    """`given` are further fields of the upstreams by their names."""
    async with contextlib.AsyncExitStack() as stack:
        fakes = {name: await stack.enter_async_context(fake_upstream(one)) for name, one in (("a", a), ("b", b))}
        upstreams = [
            {"name": name, "url": fake.url, "models": ["m"], **(given or {}).get(name, {})}
            for name, fake in fakes.items()
        ]
        wanted = {"aliases": {"fast": ["a/m", "b/m"]}, "upstreams": upstreams, "discover": False, **settings}
        app = Backtalk(Settings(home=home, **wanted))
        made = House(await stack.enter_async_context(served(app, lifespan="on")), fakes)
        stack.push_async_callback(made.sdk.close)
        yield made


async def mute(line: Line) -> None:
    await asyncio.sleep(60)


async def silent(line: Line) -> None:
    await line.head()
    await line.event(delta(role="assistant", content=""))
    await asyncio.sleep(60)


async def cut(line: Line) -> None:
    line.cut()


async def cut_after_role(line: Line) -> None:
    await line.head()
    await line.event(delta(role="assistant", content=""))
    line.cut()


CANNOT: dict[str, Behaviour] = {
    "limited": status(429, **SOON),
    "limited for long": status(429, retry_after="100"),
    "out of money": status(429, {"error": {"message": "pay", "code": "insufficient_quota"}}),
    "broken": status(500, **SOON),
    "overloaded": status(529, **SOON),
    "not implemented": status(501),
    "wrong key": status(401),
    "unknown model": status(404, {"error": {"message": "no such model"}}),
    "wrong place": status(404, b"<html>", "text/html"),
    "a web page": status(200, b"<html>", "text/html"),
    "elsewhere": status(302, b"", location="/elsewhere"),
    "too long": status(400, TOO_LONG),
    "mute": mute,
    "silent": silent,
    "cut": cut,
    "cut after the role": cut_after_role,
    "nonsense": events(b"{oops"),
    "empty": events(done=False),
    "error in the stream": events({"error": {"message": "overloaded", "code": 503}}),
    "limited in the stream": events({"error": {"message": "slow", "code": "rate_limit_exceeded"}}),
    "too long in the stream": events({"error": {"message": "maximum context length is 9", "code": 400}}),
}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once: how long they wait is another test's."""
    wait = Tries.wait
    monkeypatch.setattr(Tries, "wait", lambda self, after=None: wait(self, 0.001 if after is None else after))


# ── the first that can ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_first_answers_when_it_can(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        answer = await h.ask()
        assert (answer.output_text, answer.model) == ("I am the first.", "fast")
        assert answer.backtalk == {"model": "a/m"}
        assert h.asked() == {"a": 1, "b": 0}
        assert h.fakes["a"].requests[0].body["model"] == "m"


@pytest.mark.parametrize("how", CANNOT)
async def test_the_next_answers_when_the_first_cannot(how: str, tmp_path: Path) -> None:
    async with house(tmp_path, CANNOT[how], idle_timeout=0.3, connect_timeout=2.0) as h:
        answer = await h.ask()
        assert (answer.output_text, answer.status, answer.backtalk["model"]) == ("I am the second.", "completed", "b/m")
        told = await h.stream()
        end = told[-1]
        assert (end["type"], end["response"]["backtalk"]["model"]) == ("response.completed", "b/m")
        assert [e["type"] for e in told].count("response.created") == 1
        assert h.asked()["b"] == 2


async def test_the_next_answers_when_nobody_listens(tmp_path: Path) -> None:
    async with fake_upstream(GOOD) as gone:
        url = gone.url
    async with house(tmp_path, given={"a": {"url": url}}) as h:
        assert (await h.ask()).output_text == "I am the second."


async def test_usage_is_that_of_the_one_who_answered(tmp_path: Path) -> None:
    async with house(tmp_path, status(500, **SOON)) as h:
        usage = (await h.ask()).usage
    assert (usage.input_tokens, usage.output_tokens, usage.input_tokens_details.cached_tokens) == (12, 7, 4)


async def test_every_wire_goes_on_to_the_next(tmp_path: Path) -> None:
    async with house(tmp_path, status(500, **SOON)) as h:
        said: Any = [{"role": "user", "content": "hi"}]
        chat = await h.sdk.chat.completions.create(model="fast", messages=said)
        assert chat.choices[0].message.content == "I am the second."
        async with httpx2.AsyncClient() as http:
            body = {"model": "fast", "max_tokens": 9, "messages": said}
            message = (await http.post(f"{h.url}/v1/messages", json=body)).json()
        assert message["content"][0]["text"] == "I am the second."


@pytest.mark.parametrize("shown", [1, 3])
async def test_once_one_has_begun_nothing_is_begun_anew(shown: int, tmp_path: Path) -> None:
    async def breaks_off(line: Line) -> None:
        await line.head()
        for number in range(shown):
            await line.event(delta(content=f"t{number} "))
        await asyncio.sleep(0.05)
        line.cut()

    async with house(tmp_path, breaks_off) as h:
        told = await h.stream()
        assert told[-1]["type"] == "response.failed"
        assert told[-1]["response"]["output"][0]["content"][0]["text"] == "".join(f"t{n} " for n in range(shown))
        with pytest.raises(openai.InternalServerError):
            await h.ask()
        assert h.asked() == {"a": 2, "b": 0}


@pytest.mark.parametrize("thought", [delta(reasoning_content="hm"), delta(tool_calls=[{"id": "c", "function": {"name": "f"}}])])  # fmt: skip
async def test_thinking_and_calls_are_a_beginning_too(thought: Any, tmp_path: Path) -> None:
    async with house(tmp_path, events(thought, {"error": {"message": "no"}})) as h:
        with pytest.raises(openai.InternalServerError):
            await h.ask()
        assert h.asked() == {"a": 1, "b": 0}


@pytest.mark.parametrize("code", [400, 413, 422])
async def test_a_clients_mistake_is_told_by_the_first(code: int, tmp_path: Path) -> None:
    wrong = {"error": {"message": "bad temperature", "param": "temperature", "code": "invalid_value"}}
    async with house(tmp_path, status(code, wrong)) as h:
        with pytest.raises(openai.BadRequestError) as caught:
            await h.ask()
        assert (caught.value.param, caught.value.code) == ("temperature", "invalid_value")
        assert h.asked() == {"a": 1, "b": 0}


async def test_a_prompt_that_is_too_long_for_all_is_told(tmp_path: Path) -> None:
    async with house(tmp_path, status(400, TOO_LONG), status(400, TOO_LONG)) as h:
        with pytest.raises(openai.BadRequestError) as caught:
            await h.ask()
        assert caught.value.code == "context_length_exceeded"
        assert h.asked() == {"a": 1, "b": 1}


async def test_when_none_can_the_last_one_says_why(tmp_path: Path) -> None:
    async with house(tmp_path, status(500, **SOON), status(429, {"error": {"message": "slow"}}, retry_after="30")) as h:
        with pytest.raises(openai.RateLimitError) as caught:
            await h.ask()
        assert caught.value.response.headers["retry-after"] == "30"
        assert "'b'" in caught.value.message


FORM: Any = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}


async def test_a_format_that_the_first_does_not_know_is_asked_for_in_words(tmp_path: Path) -> None:
    unknown = status(400, {"error": {"message": "response_format is not supported"}})
    async with house(tmp_path, unknown) as h:
        h.fakes["a"].behaviours.append(tokens('{"x":1}'))
        answer = await h.ask(text=FORM)
        assert (answer.output_text, answer.backtalk["model"], h.asked()) == ('{"x":1}', "a/m", {"a": 2, "b": 0})


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_several_default_models_are_a_chain(tmp_path: Path) -> None:
    async with house(tmp_path, status(500, **SOON), model=["a/m", "b/m"], aliases={}) as h:
        answer = await h.ask(None)
        assert (answer.output_text, answer.model, answer.backtalk["model"]) == ("I am the second.", "a/m", "b/m")


async def test_an_alias_for_one_and_one_among_others(tmp_path: Path) -> None:
    aliases = {"best": "b/m", "fast": ["best", "a/m"], "loop": ["loop", "b/m"]}
    async with house(tmp_path, aliases=aliases, model=["fast"]) as h:
        assert (await h.ask("best")).output_text == "I am the second."
        assert (await h.ask("fast")).output_text == "I am the second."
        assert (await h.ask(None)).output_text == "I am the second."
        assert (await h.ask("loop")).output_text == "I am the first.", "a name that stands for itself is a model's"


async def test_each_step_of_a_turn_begins_with_the_first(tmp_path: Path) -> None:
    call = {"id": "c", "function": {"name": "file_search", "arguments": '{"queries":["x"]}'}}
    async with house(tmp_path, status(500, **SOON), events(delta(tool_calls=[call]), finish("tool_calls"), USAGE)) as h:
        h.fakes["b"].behaviours.append(OTHER)
        store = await h.sdk.vector_stores.create(name="s")
        answer = await h.ask(tools=[{"type": "file_search", "vector_store_ids": [store.id]}])
        assert (answer.output_text, answer.usage.input_tokens) == ("I am the second.", 24)
        assert h.asked() == {"a": 6, "b": 2}


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

KEYS = {"a": "sk-canary-aaaaaaaaaaaa", "b": "sk-canary-bbbbbbbbbbbb"}


def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """That of `a` in the environment, that of `b` in a file."""
    monkeypatch.setenv("KEY_OF_A", f" {KEYS['a']}\n")
    file = tmp_path / "key"
    file.write_text(f"{KEYS['b']}\n")
    return {"a": {"api_key_env": "KEY_OF_A"}, "b": {"api_key_file": str(file)}}


ECHOING: dict[str, Behaviour] = {
    "in a body": status(500, {"error": {"message": f"Invalid: Bearer {KEYS['a']}"}}, **SOON),
    "as the client's mistake": status(400, {"error": {"message": f"odd header Bearer {KEYS['a']}"}}),
    "as a wrong key": status(401, {"error": {"message": f"Incorrect API key provided: {KEYS['a']}"}}),
    "in the stream": events({"error": {"message": f"bad {KEYS['a']}", "code": 401}}),
    "to another place": status(307, b"", location="http://127.0.0.1:9/v1/chat/completions"),
}


@pytest.mark.parametrize("adapter", ["openai", "openai-responses", "anthropic"])
async def test_a_key_goes_to_its_own_server_only(
    adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    given = {name: {**one, "adapter": adapter} for name, one in keys(tmp_path, monkeypatch).items()}
    async with house(tmp_path / "home", status(500, **SOON), status(500, **SOON), given=given) as h:
        with pytest.raises(openai.InternalServerError):
            await h.ask()
        for name, fake in h.fakes.items():
            assert fake.requests
            for request in fake.requests:
                other = KEYS["b" if name == "a" else "a"]
                assert other not in str(request)
                assert sum(KEYS[name] in value for value in request.headers.values()) == 1
    assert not any(key in caplog.text for key in KEYS.values())


@pytest.mark.parametrize("how", ECHOING)
async def test_a_key_that_a_server_tells_is_not_told_on(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    given = keys(tmp_path, monkeypatch)
    async with house(tmp_path / "home", ECHOING[how], given=given) as h:
        with pytest.raises(openai.APIStatusError) as caught:
            await h.ask("a/m")
        told = await h.stream("a/m")
        assert told[-1]["type"] == "response.failed"
        listed = await h.sdk.with_options().models.list()
    shown = f"{caught.value} {caught.value.response.headers} {told} {listed} {caplog.text}"
    assert not any(key in shown for key in KEYS.values())


def test_a_key_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEY_OF_A", raising=False)
    for place, said in (("api_key_env", "KEY_OF_A"), ("api_key_file", "missing.txt")):
        value = "KEY_OF_A" if place == "api_key_env" else str(tmp_path / "missing.txt")
        upstream = {"name": "a", "url": "http://127.0.0.1:9/v1", place: value}
        settings: Any = {"upstreams": [upstream], "discover": False}
        with pytest.raises(ValueError, match=said):
            Backtalk(Settings(home=tmp_path, **settings))
