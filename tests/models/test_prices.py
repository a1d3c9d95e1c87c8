"""What tokens cost: the sum, in the response and in the line of the log."""

import logging
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fake_upstream import status
from test_chain import House, house

from backtalk.domain.model import Usage
from backtalk.models.prices import Price, Prices

MILLION = 1_000_000
TABLE = [
    {"model": "a/*", "input": 1.0, "output": 10.0, "cached": 0.25},
    {"model": "b/m", "input": 100.0, "output": 1000.0},
]
AT_A = (8 * 1.0 + 4 * 0.25 + 7 * 10.0) / MILLION
AT_B = (12 * 100.0 + 7 * 1000.0) / MILLION


def test_each_kind_of_token_has_its_price() -> None:
    used = Usage(input_tokens=100, output_tokens=10, cached_tokens=60, cache_write_tokens=30, reasoning_tokens=5)
    assert Price("m", 1.0, 2.0).of(used) * MILLION == pytest.approx(100 + 20)
    assert Price("m", 1.0, 2.0, cached=0.5).of(used) * MILLION == pytest.approx(40 + 30 + 20)
    assert Price("m", 1.0, 2.0, cached=0.0, cache_write=10.0).of(used) * MILLION == pytest.approx(10 + 300 + 20)
    assert Price("m", 1.0, 2.0).of(Usage()) == 0.0


def test_a_server_that_counts_what_was_cached_apart_makes_no_price_negative() -> None:
    used = Usage(input_tokens=10, output_tokens=0, cached_tokens=100)
    assert Price("m", 1.0, 2.0, cached=0.1).of(used) * MILLION == pytest.approx(10)


def test_the_first_entry_that_fits_counts() -> None:
    prices = Prices([Price("x/gpt-4o-mini", 1.0, 0.0), Price("x/gpt-4o*", 2.0, 0.0), Price("*", 3.0, 0.0)])
    one = Usage(input_tokens=MILLION)
    assert [
        prices.cost(model, one) for model in ("x/gpt-4o-mini", "x/gpt-4o", "x/gpt-4o-2024", "y/gpt-4o", "X/gpt-4o")
    ] == [
        1.0,
        2.0,
        2.0,
        3.0,
        3.0,
    ]
    assert Prices().cost("m", one) is None
    assert Prices([Price("a", 1.0, 1.0)]).cost("b", one) is None


def costs(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """What the lines of the log tell, of requests that ran a turn."""
    lines = [record.fields for record in caplog.records if record.name == "backtalk.access"]  # type: ignore[attr-defined]
    return [line.get("cost_usd") for line in lines if "model" in line]


async def test_a_response_and_its_line_in_the_log_tell_the_cost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backtalk.access")
    async with house(tmp_path, prices=TABLE) as h:
        answer = await h.ask("a/m")
        assert answer.backtalk["cost_usd"] == pytest.approx(AT_A)
        stored: Any = await h.sdk.responses.retrieve(answer.id)
        assert stored.backtalk == answer.backtalk
        assert (await h.stream("a/m"))[-1]["response"]["backtalk"]["cost_usd"] == pytest.approx(AT_A)
        await other_wires(h)
    assert costs(caplog) == pytest.approx([AT_A] * 4)


async def other_wires(h: House) -> None:
    said: Any = [{"role": "user", "content": "hi"}]
    await h.sdk.chat.completions.create(model="a/m", messages=said)
    async with httpx2.AsyncClient() as http:
        await http.post(f"{h.url}/v1/messages", json={"model": "a/m", "max_tokens": 9, "messages": said})


async def test_of_a_chain_the_one_who_answered_has_the_price(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "backtalk.access")
    async with house(tmp_path, status(501), prices=TABLE) as h:
        assert (await h.ask()).backtalk == {"model": "b/m", "cost_usd": pytest.approx(AT_B)}
    assert costs(caplog) == pytest.approx([AT_B])


async def test_where_no_price_is_known_none_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "backtalk.access")
    async with house(tmp_path, prices=TABLE[:1]) as h:
        answer = await h.ask("b/m")
        assert "cost_usd" not in (getattr(answer, "backtalk", None) or {})
    assert costs(caplog) == [None]
