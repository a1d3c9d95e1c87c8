"""What it costs to check the body of `POST /v1/responses`: CPU time, best of many, beside the official SDK's own types.

Run: python bench/bench_validation.py [--messages 20]
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import msgspec
from openai.types.responses import ResponseInputParam
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from backtalk.domain.caller import Caller
from backtalk.http.route import decode
from backtalk.turn import responses_wire

TEXT = "Say something about the harvest of the year and about who sang. " * 4
FUNCTION = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def talk(messages: int) -> list[dict[str, Any]]:
    """Messages of both sides, some with parts, and a call with its output."""
    items: list[dict[str, Any]] = [
        {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": '{"city":"Rome"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
    ]
    for i in range(messages - len(items)):
        if i % 2:
            part = {"type": "output_text", "text": TEXT, "annotations": []}
            items.append(
                {"id": f"msg_{i}", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
            )
        else:
            items.append({"role": "user", "content": TEXT})
    return items


def best(run: Callable[[], object], rounds: int = 60, inner: int = 20) -> float:
    """Microseconds of CPU for one run, in the best of the rounds: what else the machine does only adds."""
    least = float("inf")
    for _ in range(rounds):
        started = time.process_time_ns()
        for _ in range(inner):
            run()
        least = min(least, (time.process_time_ns() - started) / inner / 1000)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20)
    messages = parser.parse_args().messages
    body = {"model": "m", "instructions": "Be brief.", "input": talk(messages), "tools": [FUNCTION], "stream": True}
    raw, caller = msgspec.json.encode(body), Caller()
    theirs: TypeAdapter[Any] = TypeAdapter(ResponseInputParam)
    ours = best(lambda: responses_wire.to_turn(responses_wire.read(decode(raw)), caller, None))
    sdk = best(lambda: list(theirs.validate_python(decode(raw)["input"])))
    table = Table(title=f"A body of {messages} messages, {len(raw):,} bytes, from JSON to a checked turn")
    for name in ("", "µs CPU", "ratio"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("Backtalk, the whole body", f"{ours:.0f}", "1.0")
    table.add_row("the openai package's types, its input alone", f"{sdk:.0f}", f"{sdk / ours:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
