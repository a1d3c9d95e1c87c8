"""Structured output: what `text.format` demands of an answer, and how a model that does not know it is asked in words."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import msgspec

from backtalk.core.errors import InvalidRequest

MAX_SCHEMA = 256 * 2**10
"""Bytes of a schema."""
_BACKTRACKS = 20_000
"""Steps that a `pattern` may take, so that none can be made to take for ever."""
_MOST_SCHEMAS = 100_000
"""Schemas that one may be when its references are followed: each of them may be tried on a value."""
_REFERENCES = (b'"$ref"', b'"$dynamicRef"', b'"$recursiveRef"')
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_STARTS = {"object": "{", "array": "[", "string": '"'}
_decoder = msgspec.json.Decoder()


class Format:
    """One `text.format` of the kinds `json_object` and `json_schema`."""

    def __init__(self, text_format: dict[str, Any]) -> None:
        self.named = text_format["type"] == "json_schema"
        self._schema: dict[str, Any] = text_format["schema"] if self.named else {"type": "object"}
        self._encoded = msgspec.json.encode(self._schema)

    @property
    def starts(self) -> str:
        """The characters that an answer can begin with, where one tells it from prose."""
        kind = self._schema.get("type")
        return _STARTS.get(kind, "{[") if isinstance(kind, str) else "{["

    @property
    def words(self) -> str:
        """The demand as an instruction."""
        demand = "Answer with one JSON value and nothing else: no introduction, no code fence, no comment."
        if not self.named:
            return f"{demand} It has to be an object."
        return f"{demand} It has to fit this JSON schema:\n{self._encoded.decode()}"

    def problem(self, text: str) -> str | None:
        """Why a text is not what was demanded; None when it is."""
        try:
            value = _decoder.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return f"it is not valid JSON ({error})"
        validator = _validator(self._encoded)
        if validator.is_valid(value):
            return None
        refers = any(word in self._encoded for word in _REFERENCES)
        if refers:  # where a schema refers to itself, to say what is wrong can take for ever
            return "it does not fit the schema"
        wrong = next(iter(validator.iter_errors(value)))
        place = "".join(f"[{step!r}]" for step in wrong.instance_path)
        return f"it does not fit the schema{f' at {place}' if place else ''}: {wrong.message[:500]}"

    def find(self, text: str) -> str | None:
        """The JSON that fits, in a text that may say more than that."""
        return next((found for found in _candidates(text) if self.problem(found) is None), None)


def take_format(form: dict[str, Any], param: str) -> dict[str, Any]:
    """A format of type `json_schema` with defaults filled in. Raises InvalidRequest."""
    if form.get("schema") is None:
        raise InvalidRequest(
            f"Missing required parameter: '{param}.schema'.",
            param=f"{param}.schema",
            code="missing_required_parameter",
        )
    form = {"name": "answer", "description": None, "strict": None, **form}
    for field, kind, words in (
        ("schema", dict, "an object"),
        ("name", str, "a string"),
        ("description", str | None, "a string"),
        ("strict", bool | None, "a boolean"),
    ):
        if not isinstance(form[field], kind):
            raise InvalidRequest(
                f"Invalid type for '{param}.{field}': expected {words}.", param=f"{param}.{field}", code="invalid_type"
            )
    if not _NAME.fullmatch(form["name"]):
        raise InvalidRequest(
            f"'{param}.name' has 1 to 64 letters, digits, '_' and '-'.", param=f"{param}.name", code="invalid_value"
        )
    _check_schema(form["schema"], f"{param}.schema")
    return form


def _check_schema(schema: dict[str, Any], param: str) -> None:
    """Raises InvalidRequest for what is no JSON schema, or refers to one elsewhere: nothing is fetched."""
    data = msgspec.json.encode(schema)
    if len(data) > MAX_SCHEMA:
        raise InvalidRequest(
            f"'{param}' is larger than the {MAX_SCHEMA:,} bytes that a schema may have.",
            param=param,
            code="invalid_value",
        )
    try:
        if _unfolded(schema) > _MOST_SCHEMAS:
            raise ValueError("its references branch too often")
        _validator(data)
    except Exception as error:  # the library has several, of no common kind
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise InvalidRequest(
            f"'{param}' is not a JSON schema that can be used here: {reason}", param=param, code="invalid_value"
        ) from None


def _unfolded(schema: dict[str, Any]) -> int:
    """How many schemas one is when its references are followed. What leads back to where it came from counts once.

    Raises ValueError for names inside that references are relative to: nobody needs them in one schema.
    """
    anchors: dict[str, Any] = {}
    known: dict[int, int] = {}

    def count(node: Any) -> int:
        if isinstance(node, list):
            return sum(map(count, node))
        if not isinstance(node, dict):
            return 0
        if id(node) not in known:
            known[id(node)] = 0
            targets = [_target(schema, anchors, node.get(word)) for word in ("$ref", "$dynamicRef", "$recursiveRef")]
            known[id(node)] = 1 + sum(map(count, node.values())) + sum(map(count, targets))
        return known[id(node)]

    _collect(schema, anchors)
    if any(isinstance(node.get("$id"), str) for node in anchors.pop("", []) if node is not schema):
        raise ValueError("it has an '$id' inside")
    return count(schema)


def _collect(node: Any, anchors: dict[str, Any]) -> None:
    """The schemas that have names, and under "" those that have an `$id`."""
    if isinstance(node, dict):
        for word in ("$anchor", "$dynamicAnchor"):
            if isinstance(node.get(word), str):
                anchors[f"#{node[word]}"] = node
        if "$id" in node:
            anchors.setdefault("", []).append(node)
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _collect(child, anchors)


def _target(schema: dict[str, Any], anchors: dict[str, Any], reference: Any) -> Any:
    """What a reference within a schema points at; None where that is nothing."""
    if not isinstance(reference, str):
        return None
    place = unquote(reference.partition("#")[2])
    node: Any = anchors.get(f"#{place}", schema)
    for step in place.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list):
            node = node[int(step)] if step.isdigit() and int(step) < len(node) else None
        else:
            node = node.get(step) if isinstance(node, dict) else None
    return node


@lru_cache(maxsize=64)
def _validator(schema: bytes) -> Any:
    import jsonschema_rs  # noqa: PLC0415  # for those who use it: 26 ms and its memory

    return jsonschema_rs.validator_for(
        msgspec.json.decode(schema),
        offline=True,
        pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACKS),
    )


def _candidates(text: str) -> Iterator[str]:
    """Where in a model's answer the JSON may be: all of it, in a fence, or between the outermost brackets."""
    yield text.strip()
    for fenced in text.split("```")[1::2]:
        yield (fenced.partition("\n")[2] if not fenced.lstrip().startswith(("{", "[")) else fenced).strip()
    for begin, end in ("{}", "[]"):
        if begin in text and end in text:
            yield text[text.index(begin) : text.rindex(end) + 1]
