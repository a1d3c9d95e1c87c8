"""Filters over attributes."""

from typing import Any

import pytest

from backtalk.core.errors import InvalidRequest
from backtalk.retrieval.attributes import predicate, take_attributes

BOOK = {"lang": "en", "year": 1999, "rating": 4.5, "public": True, "when": "2024-05-01"}


def comparison(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


@pytest.mark.parametrize(
    ("kind", "key", "value", "fits"),
    [
        ("eq", "lang", "en", True),
        ("eq", "lang", "de", False),
        ("eq", "year", 1999.0, True),
        ("eq", "public", True, True),
        ("eq", "public", 1, False),
        ("eq", "year", "1999", False),
        ("eq", "missing", "x", False),
        ("ne", "lang", "de", True),
        ("ne", "missing", "x", True),
        ("gt", "year", 1998, True),
        ("gt", "year", 1999, False),
        ("gte", "year", 1999, True),
        ("lt", "rating", 4.6, True),
        ("lte", "rating", 4.5, True),
        ("gt", "when", "2024-01-01", True),
        ("gt", "when", 5, False),
        ("gt", "public", 0, False),
        ("lt", "missing", 5, False),
        ("in", "lang", ["de", "en"], True),
        ("in", "year", [1, 2], False),
        ("in", "lang", [], False),
        ("nin", "lang", ["de"], True),
        ("nin", "lang", ["en"], False),
        ("nin", "missing", ["en"], True),
    ],
)
def test_comparisons(kind: str, key: str, value: Any, fits: bool) -> None:
    assert predicate(comparison(kind, key, value))(BOOK) is fits


def test_compounds() -> None:
    english, old = comparison("eq", "lang", "en"), comparison("lt", "year", 1950)
    assert not predicate({"type": "and", "filters": [english, old]})(BOOK)
    assert predicate({"type": "or", "filters": [old, {"type": "and", "filters": [english]}]})(BOOK)


def deep(levels: int) -> dict[str, Any]:
    inner = comparison("eq", "a", 1)
    for _ in range(levels):
        inner = {"type": "and", "filters": [inner]}
    return inner


@pytest.mark.parametrize(
    ("filters", "param"),
    [
        ([], "filters"),
        ({}, "filters.type"),
        ({"type": "like", "key": "a", "value": "b"}, "filters.type"),
        ({"type": ["eq"], "key": "a", "value": "b"}, "filters.type"),
        ({"type": "eq", "value": "b"}, "filters.key"),
        ({"type": "eq", "key": "a"}, "filters.value"),
        ({"type": "gt", "key": "a", "value": None}, "filters.value"),
        ({"type": "eq", "key": "a", "value": {}}, "filters.value"),
        ({"type": "in", "key": "a", "value": "x"}, "filters.value"),
        ({"type": "in", "key": "a", "value": [[]]}, "filters.value"),
        ({"type": "and"}, "filters.filters"),
        ({"type": "or", "filters": []}, "filters.filters"),
        ({"type": "or", "filters": [{"type": "eq"}]}, "filters.filters[0].key"),
    ],
)
def test_what_is_no_filter_is_refused(filters: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        predicate(filters)
    assert error.value.param == param


def test_depth_is_limited() -> None:
    assert predicate(deep(16))({"a": 1})
    with pytest.raises(InvalidRequest, match="nested"):
        predicate(deep(500))


def test_attributes() -> None:
    assert take_attributes(None) == {}
    assert take_attributes(BOOK) == BOOK


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ([], "attributes"),
        ({str(n): 1 for n in range(17)}, "attributes"),
        ({"a": None}, "attributes.a"),
        ({"a": {}}, "attributes.a"),
        ({"a": "x" * 513}, "attributes.a"),
        ({"k" * 65: 1}, "attributes." + "k" * 64),
    ],
)
def test_bad_attributes_are_refused(value: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        take_attributes(value)
    assert error.value.param == param
