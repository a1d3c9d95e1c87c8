"""JSON values that satisfy a JSON schema, without a model that thinks."""

from collections.abc import Callable
from typing import Any

from backtalk.core.errors import InvalidRequest

Schema = dict[str, Any]
Guess = Callable[[str, Schema], Any]
"""What a string or number field might hold, by its name and schema; None when there is no idea."""

_DEPTH = 12
_SIMPLE = 3
"""From this depth on only what is required, and the plainest option: schemas may refer to themselves."""
_MOST = 10_000
"""Characters or entries at most, whatever a schema's bounds demand."""
_STEPS = 50_000
"""Subschemas looked at before giving up: nested lists and references multiply."""
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def fill(schema: Schema | None, guess: Guess = lambda name, schema: None) -> Any:
    """A value of `schema`: const, default and enum first, then `guess`, then the simplest that fits.

    Raises InvalidRequest for what is no schema. Knows local `$ref`, `allOf`, `anyOf`, `oneOf`, nested objects and arrays, `format`, lengths and bounds; not `pattern`.
    """
    try:
        return _Filler(schema or {"type": "object"}, guess).value(schema or {"type": "object"}, "", 0)
    except RecursionError:
        raise InvalidRequest("The JSON schema refers to itself without end.", code="invalid_value") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"The JSON schema cannot be understood: {error}.", code="invalid_value") from error


class _Filler:
    def __init__(self, root: Schema, guess: Guess) -> None:
        self._root = root
        self._guess = guess
        self._steps = _STEPS

    def value(self, schema: Any, name: str, depth: int) -> Any:
        schema = self._resolved(schema)
        for key in ("const", "default"):
            if key in schema:
                return schema[key]
        if schema.get("enum"):
            guessed = self._guess(name, schema)
            return guessed if guessed in schema["enum"] else schema["enum"][0]
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return self.value(self._pick(schema[key], depth), name, depth)
        return self._of_type(_type(schema, depth), schema, name, depth)

    def _of_type(self, kind: str, schema: Schema, name: str, depth: int) -> Any:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "string":
                return self._string(schema, name)
            case "integer" | "number":
                return self._number(schema, name, kind)
            case "boolean":
                return self._guess(name, schema) is not False
        return None

    def _resolved(self, schema: Any) -> Schema:
        """Follows a local `$ref` and merges `allOf`. `true` and what is no schema allow anything."""
        self._steps -= 1
        if self._steps < 0:
            raise ValueError("it demands too large a value")
        for _ in range(_DEPTH):
            if isinstance(schema, dict) and "$ref" in schema:
                schema = self._lookup(schema["$ref"])
        merged: Schema = schema if isinstance(schema, dict) else {"type": "string"}
        for part in merged.get("allOf") or ():
            merged = _merged(merged, self._resolved(part))
        return merged

    def _lookup(self, ref: str) -> Any:
        found: Any = self._root
        for step in ref.removeprefix("#").strip("/").split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            if key:
                found = found.get(key) if isinstance(found, dict) else None
        return found

    def _pick(self, options: list[Any], depth: int) -> Any:
        """The first option that is not null; deep down null, or the option that refers to the fewest others."""
        nulls = [option for option in options if self._resolved(option).get("type") == "null"]
        others = [option for option in options if option not in nulls]
        if nulls and (depth >= _SIMPLE or not others):
            return nulls[0]
        return min(others, key=lambda one: str(self._resolved(one)).count("$ref")) if depth >= _SIMPLE else others[0]

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required") or []
        if not all(isinstance(name, str) for name in required):
            raise TypeError("'required' is no list of names")
        names = required if depth >= _SIMPLE else [*properties, *(n for n in required if n not in properties)]
        return {name: self.value(properties.get(name, True), name, depth + 1) for name in names if depth < _DEPTH}

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        if depth >= _DEPTH:
            return []
        prefix = [self.value(item, name, depth + 1) for item in schema.get("prefixItems") or ()]
        least = schema.get("minItems", 0 if depth >= _SIMPLE else 1)
        count = min(max(least - len(prefix), 0), schema.get("maxItems", least), _MOST)
        return prefix + [self.value(schema.get("items", True), name, depth + 1) for _ in range(count)]

    def _string(self, schema: Schema, name: str) -> str:
        guessed = self._guess(name, schema)
        text = _FORMATS.get(schema.get("format", "")) or (guessed if isinstance(guessed, str) else name or "text")
        return text.ljust(min(schema.get("minLength", 0), _MOST), ".")[: schema.get("maxLength")]

    def _number(self, schema: Schema, name: str, kind: str) -> float:
        guessed = self._guess(name, schema)
        number = guessed if isinstance(guessed, (int, float)) and not isinstance(guessed, bool) else 1
        number = int(number) if kind == "integer" else number
        number = _within(schema, number, 1 if kind == "integer" else 0.5)
        step = schema.get("multipleOf")
        return number if not step else -(-number // step) * step


def _type(schema: Schema, depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        others = [one for one in kind if one != "null"]
        kind = "null" if not others or ("null" in kind and depth >= _SIMPLE) else others[0]
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _merged(schema: Schema, part: Schema) -> Schema:
    merged = {**part, **{key: value for key, value in schema.items() if key != "allOf"}}
    merged["properties"] = {**(part.get("properties") or {}), **(schema.get("properties") or {})}
    merged["required"] = [*(part.get("required") or []), *(schema.get("required") or [])]
    return merged if merged["properties"] else {k: v for k, v in merged.items() if k not in ("properties", "required")}


def _within(schema: Schema, number: float, above: float) -> float:
    if "minimum" in schema:
        number = max(number, schema["minimum"])
    if "exclusiveMinimum" in schema and number <= schema["exclusiveMinimum"]:
        number = schema["exclusiveMinimum"] + above
    if "maximum" in schema:
        number = min(number, schema["maximum"])
    if "exclusiveMaximum" in schema and number >= schema["exclusiveMaximum"]:
        number = schema["exclusiveMaximum"] - above
    return number
