"""What clients say about their files, and filters over it."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from backtalk.core.errors import InvalidRequest

Attributes: TypeAlias = Mapping[str, Any]
Predicate: TypeAlias = Callable[[Attributes], bool]

_MOST = 16
_DEEPEST = 16
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_KINDS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "and", "or")


def take_attributes(value: Any, param: str = "attributes") -> dict[str, Any]:
    """Up to 16 pairs: keys of up to 64 characters, values strings of up to 512, numbers or booleans."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(param, "expected an object", "invalid_type")
    if len(value) > _MOST:
        raise _wrong(param, f"at most {_MOST} pairs are allowed")
    for key, entry in value.items():
        if not isinstance(entry, str | int | float):
            raise _wrong(f"{param}.{key[:64]}", "expected a string, a number or a boolean", "invalid_type")
        if len(key) > 64 or (isinstance(entry, str) and len(entry) > 512):
            raise _wrong(f"{param}.{key[:64]}", "keys have up to 64 characters, values up to 512")
    return value


def predicate(filters: Any, param: str = "filters") -> Predicate:
    """A filter as a function of attributes. Raises InvalidRequest for what is not a filter."""
    return _compile(filters, param, _DEEPEST)


def _compile(filters: Any, param: str, depth: int) -> Predicate:
    if not isinstance(filters, dict):
        raise _wrong(param, "expected an object", "invalid_type")
    kind = filters.get("type")
    if kind not in _KINDS:
        raise _wrong(f"{param}.type", f"expected one of {', '.join(_KINDS)}")
    if kind in ("and", "or"):
        return _compound(kind, filters, param, depth)
    key = filters.get("key")
    if not isinstance(key, str):
        raise _wrong(f"{param}.key", "expected a string", "invalid_type")
    return _comparison(kind, key, filters.get("value"), f"{param}.value")


def _compound(kind: str, filters: dict[str, Any], param: str, depth: int) -> Predicate:
    inner = filters.get("filters")
    if not isinstance(inner, list) or not inner:
        raise _wrong(f"{param}.filters", "expected a list of filters", "invalid_type")
    if depth == 0:
        raise _wrong(param, f"filters are nested more than {_DEEPEST} deep")
    compiled = [_compile(one, f"{param}.filters[{i}]", depth - 1) for i, one in enumerate(inner)]
    fold = all if kind == "and" else any
    return lambda attributes: fold(one(attributes) for one in compiled)


def _comparison(kind: str, key: str, value: Any, param: str) -> Predicate:
    if kind in ("in", "nin"):
        if not isinstance(value, list) or not all(isinstance(one, str | int | float) for one in value):
            raise _wrong(param, "expected a list of strings or numbers", "invalid_type")
        return lambda attributes: any(_equal(attributes.get(key), one) for one in value) == (kind == "in")
    if not isinstance(value, str | int | float):
        raise _wrong(param, "expected a string, a number or a boolean", "invalid_type")
    if kind in ("eq", "ne"):
        return lambda attributes: _equal(attributes.get(key), value) == (kind == "eq")
    compare = _ORDERS[kind]
    return lambda attributes: _comparable(attributes.get(key), value) and compare(attributes[key], value)


def _equal(one: Any, other: Any) -> bool:
    """Equality as JSON has it: `true` is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _comparable(one: Any, other: Any) -> bool:
    """Numbers with numbers, strings with strings; nothing is greater than a boolean, or than what is not there."""
    if isinstance(one, bool) or isinstance(other, bool):
        return False
    return isinstance(one, str) == isinstance(other, str) and isinstance(one, str | int | float)


def _wrong(param: str, why: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': {why}.", param=param, code=code)
