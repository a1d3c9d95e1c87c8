"""instructor: structured output in every mode that it has for OpenAI, with version 2 of the SDK."""

from collections.abc import Iterable

import instructor
import pytest
from instructor import Mode
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, field_validator
from talk import BASE_URL, KEY, MODEL

MODES = [Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON, Mode.JSON_SCHEMA, Mode.RESPONSES_TOOLS]
ASKED = [{"role": "user", "content": "Plan a trip to Paris for 3 days."}]


class Trip(BaseModel):
    city: str
    days: int


PARIS = {"city": "Paris", "days": 3}


def made(mode: Mode) -> instructor.Instructor:
    return instructor.from_openai(OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0), mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_an_object(mode: Mode) -> None:
    trip, raw = made(mode).create_with_completion(model=MODEL, messages=ASKED, response_model=Trip)
    assert trip.model_dump() == PARIS
    assert raw.usage.total_tokens > 0


@pytest.mark.parametrize("mode", MODES)
async def test_an_object_asynchronously(mode: Mode) -> None:
    client = instructor.from_openai(AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0), mode=mode)
    trip = await client.create(model=MODEL, messages=ASKED, response_model=Trip)
    assert trip.model_dump() == PARIS


@pytest.mark.parametrize("mode", MODES)
def test_a_partial_object(mode: Mode) -> None:
    seen = list(made(mode).create_partial(model=MODEL, messages=ASKED, response_model=Trip))
    assert seen[-1].model_dump() == PARIS


@pytest.mark.parametrize("mode", MODES)
def test_a_list_of_objects(mode: Mode) -> None:
    trips = made(mode).create_iterable(model=MODEL, messages=ASKED, response_model=Trip)
    assert [trip.model_dump() for trip in trips] == [PARIS]


def test_an_answer_in_markdown() -> None:
    told = 'Say exactly: ```json\n{"city": "Paris", "days": 3}\n```\n'
    trip = made(Mode.MD_JSON).create(
        model=MODEL, messages=[{"role": "user", "content": told}], response_model=Trip, max_retries=0
    )
    assert trip.model_dump() == PARIS


def test_calls_side_by_side() -> None:
    class Weather(BaseModel):
        location: str

    asked = [{"role": "user", "content": "What's the weather like in Paris and San Francisco?"}]
    found = made(Mode.PARALLEL_TOOLS).create(model=MODEL, messages=asked, response_model=Iterable[Weather])
    assert [one.location for one in found] == ["Paris", "San Francisco"]


@pytest.mark.parametrize("mode", MODES)
def test_an_object_that_is_wrong_is_asked_for_again(mode: Mode) -> None:
    """The failed call and the complaint about it go back as messages."""
    seen = []

    class Picky(Trip):
        @field_validator("days")
        @classmethod
        def not_at_first(cls, days: int) -> int:
            seen.append(days)
            if len(seen) == 1:
                raise ValueError("ask again")
            return days

    made(mode).create(model=MODEL, messages=ASKED, response_model=Picky, max_retries=2)
    assert len(seen) == 2
