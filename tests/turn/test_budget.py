"""What goes into a prompt, where the talk is long."""

from typing import Any

import pytest

from backtalk.core.errors import InvalidRequest
from backtalk.turn.budget import fit


class Counted(dict[str, Any]):
    """An item that counts how often something looks into any of them."""

    looks = 0

    def __getitem__(self, key: str) -> Any:
        Counted.looks += 1
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        Counted.looks += 1
        return super().get(key, default)


def message(i: int, role: str = "user") -> dict[str, Any]:
    part = {"type": "input_text", "text": f"Message {i} " * 20}
    return Counted(id=f"msg_{i}", type="message", role=role, content=[part])


def pair(i: int) -> list[dict[str, Any]]:
    call = Counted(id=f"fc_{i}", type="function_call", call_id=f"call_{i}", name="f", arguments="{}")
    output = Counted(id=f"fco_{i}", type="function_call_output", call_id=f"call_{i}", output="Sunny. " * 20)
    return [call, output]


TALKS: dict[str, Any] = {
    "messages": lambda count: [message(i) for i in range(count)],
    "answers": lambda count: [message(0), *(message(i, "assistant") for i in range(1, count))],
    "calls": lambda count: [message(0), *(item for i in range(count // 2) for item in pair(i))],
}


@pytest.mark.parametrize("kind", TALKS)
def test_four_times_the_talk_is_about_four_times_the_work(kind: str) -> None:
    looks = []
    for count in (2000, 8000):
        talk = TALKS[kind](count)
        Counted.looks = 0
        fitted = fit(talk, [], instructions=None, limit=3000, truncate=True)
        looks.append(Counted.looks)
        assert fitted.items[-1]["id"] == talk[-1]["id"] and 10 < len(fitted.items) < 200
        assert fitted.tokens <= 3000
        assert len(fitted.items) + len(fitted.cut_items) == len(talk)
    assert looks[1] < 10 * looks[0]


def test_what_does_not_fit_is_told_in_the_same_work() -> None:
    looks = []
    for count in (2000, 8000):
        talk = [message(0), *(item for i in range(count // 2) for item in pair(i))]
        Counted.looks = 0
        with pytest.raises(InvalidRequest):
            fit(talk, [], instructions=None, limit=20, truncate=True)
        looks.append(Counted.looks)
    assert looks[1] < 10 * looks[0]
