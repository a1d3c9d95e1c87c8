"""What `/openapi.json` says of our operations beyond what FastAPI can know: their answers, their errors, their key.

Answers are described by `msgspec` Structs in each room's `answers.py`. Nothing is validated against them while serving;
tests hold what we send against them.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import msgspec

from backtalk.core.errors import (
    BacktalkError,
    Conflict,
    InvalidRequest,
    NotFound,
    Overloaded,
    RateLimited,
    TooLarge,
    Unauthorized,
    UpstreamError,
)

Responses: TypeAlias = dict[int | str, dict[str, Any]]
_SCHEMAS = "#/components/schemas/"


class Listing(msgspec.Struct, kw_only=True):
    """A page of a list. With `has_more`, ask again with `after` set to `last_id`."""

    object: Literal["list"]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(msgspec.Struct):
    """What was deleted."""

    id: str
    object: str
    deleted: bool


class Problem(msgspec.Struct):
    """`message` says what to do next, `param` names the parameter at fault, as in `input[0].content`."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


class ErrorEnvelope(msgspec.Struct):
    """Every error, in OpenAI's shape."""

    error: Problem


_ERRORS: dict[int | str, tuple[str, str, BacktalkError]] = {
    400: (
        "BadRequest",
        "Something in the request is wrong; `param` says what.",
        InvalidRequest("Missing required parameter: 'input'.", param="input", code="missing_required_parameter"),
    ),
    401: (
        "Unauthorized",
        "The key is missing or wrong. Without any key made, only programs on the same machine are served.",
        Unauthorized("You did not provide an API key: send `Authorization: Bearer …`."),
    ),
    404: (
        "NotFound",
        "There is no such object in this project, or no such model.",
        NotFound("Response with id 'resp_0' not found."),
    ),
    409: ("Conflict", "The object's state forbids it.", Conflict("The batch has ended already.")),
    413: ("TooLarge", "The body is larger than is allowed here.", TooLarge("The body is larger than is allowed here.")),
    429: (
        "RateLimited",
        "A model server limits its rate; `retry-after` says when to come again.",
        RateLimited("The model server limits the rate of requests."),
    ),
    502: (
        "UpstreamFailed",
        "A model server failed or could not be reached.",
        UpstreamError("The model server does not answer."),
    ),
    503: (
        "Overloaded",
        "Too much at once; `retry-after` says when to come again.",
        Overloaded("Too many responses are in progress here; try again in a moment."),
    ),
    "default": ("OtherError", "Any other error, in the same shape.", BacktalkError("The server made a mistake.")),
}


def errors(*codes: int | str) -> Responses:
    """An operation's `responses` for some statuses."""
    return {
        code: {"$ref": f"#/components/responses/{_ERRORS[code][0]}", "description": _ERRORS[code][1]} for code in codes
    }


def answers(shape: type[msgspec.Struct], *codes: int, description: str = "", stream: str = "") -> Responses:
    """An operation's `responses`: a JSON object on success, these errors else; `stream` is an example of its events."""
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": _SCHEMAS + shape.__name__}}}
    if stream:
        content["text/event-stream"] = {"schema": {"type": "string"}, "example": stream}
    first_line = (shape.__doc__ or "").partition("\n")[0]
    return {200: {"description": description or first_line, "content": content}, **errors(*codes)}


def complete(schema: dict[str, Any], shapes: Iterable[type[msgspec.Struct]], is_ours: Callable[[str], bool]) -> None:
    """Adds to FastAPI's document what our operations refer to, and that a key may be sent to them.

    A user's own definition keeps its name where ours has the same.
    """
    components = schema.setdefault("components", {})
    _, ours = msgspec.json.schema_components([ErrorEnvelope, Deleted, *shapes], ref_template=_SCHEMAS + "{name}")
    components["schemas"] = ours | components.get("schemas", {})
    components["responses"] = dict(map(_error_response, _ERRORS.values())) | components.get("responses", {})
    components.setdefault("securitySchemes", {})["key"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of `backtalk keys create`. Not needed on the same machine while no key exists.",
    }
    for path, operations in schema.get("paths", {}).items():
        if is_ours(path):
            for operation in operations.values():
                operation.setdefault("security", [{"key": []}, {}])
                operation["responses"] = dict(sorted(operation["responses"].items()))


def _error_response(entry: tuple[str, str, BacktalkError]) -> tuple[str, dict[str, Any]]:
    name, description, error = entry
    content = {"schema": {"$ref": _SCHEMAS + ErrorEnvelope.__name__}, "example": error.envelope()}
    return name, {"description": description, "content": {"application/json": content}}
