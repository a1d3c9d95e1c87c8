"""Requests made from our own OpenAPI by schemathesis, as it allows and as it does not: no answer is a 5xx.

`FUZZ=5200 pytest tests/hostile/test_schema_fuzz.py -s` sends about 5,000 to each kind of database. The sample is seeded.
"""

import os
from collections import Counter
from typing import Any

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from shape import assert_clean, things

REQUESTS = int(os.environ.get("FUZZ", "200"))


def test_no_request_of_any_kind_makes_the_server_fail(on_each: str) -> None:
    schema = schemathesis.openapi.from_url(f"{on_each}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 40
    rounds = [(operation, mode) for operation in operations for mode in modes(operation)]
    statuses: Counter[int] = Counter()
    ids = things(on_each)
    for operation, mode in rounds:
        fuzz(operation, mode, -(-REQUESTS // len(rounds)), statuses, ids)
        assert httpx2.get(f"{on_each}/healthz").status_code == 200, operation.label
    print(f"{statuses.total()} requests to {len(operations)} operations: {dict(sorted(statuses.items()))}")
    assert statuses.total() >= 0.9 * REQUESTS


def modes(operation: Any) -> list[GenerationMode]:
    """Any text may stand in a path: where nothing else is taken, nothing can be wrong."""
    takes = operation.body or operation.query
    return [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if takes else [])]


def fuzz(operation: Any, mode: GenerationMode, examples: int, statuses: Counter[int], ids: dict[str, str]) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        if statuses.total() % 2 and operation.method != "delete":  # half of them to things that exist
            case.path_parameters = {**case.path_parameters, **{k: ids[k] for k in case.path_parameters if k in ids}}
        answer = case.call(timeout=30)
        statuses[answer.status_code] += 1
        assert_clean(answer.status_code, answer.headers, answer.content, operation.label)

    send()
