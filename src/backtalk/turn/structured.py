"""Structured output: what `text.format` demands of an answer, and how a model that does not know it is asked in words."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec

from backtalk.core.errors import InvalidRequest

MAX_SCHEMA = 256 * 2**10
"""Bytes of a schema."""
_BACKTRACKS = 20_000
"""Steps that a `pattern` may take, so that none can be made to take for ever."""
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
        if b'"$ref"' in self._encoded:  # where a schema refers to itself, to say what is wrong can take for ever
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
        _validator(data)
    except Exception as error:  # the library has several, of no common kind
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise InvalidRequest(
            f"'{param}' is not a JSON schema that can be used here: {reason}", param=param, code="invalid_value"
        ) from None


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
