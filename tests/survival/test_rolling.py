"""A sample of the rolling restarts; `python -m backtalk.testing.rolling` restarts as often as you like."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from backtalk.testing.ledger import Fault, Ledger, Told
from backtalk.testing.rolling import Balancer, Line, Plan, Rolled, roll


def test_clients_do_not_notice(database: str, tmp_path: Path) -> None:
    restarts = 3 if database.startswith("sqlite") else 2
    tally = roll(Plan(restarts=restarts, seed=1, database=database, home=tmp_path / "home"))
    assert not tally.faults, "\n".join(tally.faults)
    assert tally.restarts == restarts
    assert tally.seen["refused"] > 0
    assert tally.verified["events"] > 200
    assert tally.verified["objects"] > 50


# ── what would be noticed ────────────────────────────────────────────────────────────────────────────────────────────

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def balancer(*answers: Answer) -> AsyncIterator[Balancer]:
    """In front of a server that gives these answers in turn."""
    left = iter(answers)

    async def answer(request: web.Request) -> web.StreamResponse:
        return await next(left)(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as http:
        yield Balancer(http, [f"http://127.0.0.1:{runner.addresses[0][1]}"], Rolled())
    await runner.cleanup()


def says(status: int, **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


async def hangs_up(request: web.Request) -> web.StreamResponse:
    assert request.transport
    request.transport.close()
    return web.Response()


async def test_a_503_that_says_when_to_come_again_is_hidden() -> None:
    async with balancer(says(503, retry_after="1"), hangs_up, says(200)) as http, http.post("/x") as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([says(503)], "503 without a Retry-After"),
        ([says(503, retry_after="1"), says(500)], "answers 500"),
        ([hangs_up, says(200, idempotent_replayed="true")], "was carried out, but its connection was closed"),
    ],
)
async def test_what_a_replica_must_not_do_is_noticed(answers: list[Answer], words: str) -> None:
    async with balancer(*answers) as http:
        with pytest.raises(Fault, match=words):
            await Line(http, Ledger(0)).post("/x", {})


@pytest.mark.parametrize(("numbers", "kind"), [((0, 2), "lost"), ((0, 1, 1), "duplicated")])
def test_gaps_and_repetitions_are_noticed(numbers: tuple[int, ...], kind: str) -> None:
    line, told = Line(None, Ledger(0)), Told("resp_1")
    with pytest.raises(Fault) as fault:
        for number in numbers:
            line.hear(b'event: x\ndata: {"type":"x","sequence_number":%d}' % number, told)
    assert fault.value.kind == kind
