"""Errors as HTTP answers: OpenAI's envelope on our routes, Anthropic's on theirs, FastAPI's own shapes on the user's."""

import errno
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backtalk.core.errors import (
    BacktalkError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    StorageFull,
    TooLarge,
    UnsupportedMedia,
)
from backtalk.http.paths import path_of

IsOurs = Callable[[str], bool]
MESSAGES = "/v1/messages"
"""Where Anthropic's wire is spoken."""
_OVERLOADED = 529
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    _OVERLOADED: "overloaded_error",
}
_OF_THE_API = frozenset(
    {"responses", "chat", "completions", "conversations", "models", "embeddings", "files", "vector_stores", "messages"}
)
"""Where a client asks whose base URL lacks the /v1."""
_INDEX = re.compile(r"\[(\d+)\]")


def render(error: BacktalkError) -> Response:
    """The one place where an error becomes an HTTP answer."""
    return _Answer(error)


class _Answer(Response):
    """An error in the shape of the wire that the request came by: known when it is sent."""

    media_type = "application/json"

    def __init__(self, error: BacktalkError) -> None:
        super().__init__(msgspec.json.encode(error.envelope()), error.status, error.headers)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_messages(path_of(scope)):
            await _as_message(self._error, scope)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _is_messages(path: str) -> bool:
    return path == MESSAGES or path.startswith(MESSAGES + "/")


def _as_message(error: BacktalkError, scope: Scope) -> Response:
    """Anthropic's shape: the message begins with what is wrong, as in `messages.0.content`; 529 is theirs for overload."""
    status = _OVERLOADED if error.status == 503 else error.status
    message = error.message
    if error.param:
        place = _INDEX.sub(r".\1", error.param)
        message = f"{place}: {message.replace(error.param, place)}"
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    request_id = scope.get("state", {}).get("request_id")
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    return Response(msgspec.json.encode(body), status, error.headers, "application/json")


def unexpected(error: BaseException) -> BacktalkError:
    """What a client is told of what the machine lacks, or of a mistake of ours; the log has the rest."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        return Overloaded("The server has as many files open as it may; try again in a moment.", retry_after=2)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull("The disk is full: nothing was written. Free some space and try again.")
    return BacktalkError("The server made a mistake and has logged it. Trying again may help.")


def install(app: FastAPI, is_ours: IsOurs) -> None:
    """Makes `app` render errors in OpenAI's shape on the paths that `is_ours` claims, and leaves the others alone."""

    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, BacktalkError)  # noqa: S101  # registered for this class
        return render(error)

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        if not is_ours(path_of(request.scope)):
            return await request_validation_exception_handler(request, error)
        return render(from_validation(error.errors()))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        path = path_of(request.scope)
        if error.status_code == 404 and "route" not in request.scope and path.split("/")[1] in _OF_THE_API:
            return render(NotFound(f"Nothing is at {path}: the API is at /v1{path}.", code="unknown_url"))
        if not is_ours(path):
            return await http_exception_handler(request, error)
        return render(from_http(request, error))

    app.add_exception_handler(BacktalkError, ours)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)


def from_http(request: Request, error: HTTPException) -> BacktalkError:
    """A Starlette error on one of our paths, as one of ours."""
    if isinstance(error.__cause__, BacktalkError):  # raised while FastAPI read the body
        return error.__cause__
    if isinstance(error.__cause__, OSError):
        return unexpected(error.__cause__)
    if error.status_code == 404:
        return NotFound(f"Unknown request URL: {request.method} {path_of(request.scope)}.", code="unknown_url")
    if error.status_code == 405:
        return MethodNotAllowed(f"{request.method} is not allowed on {path_of(request.scope)}.", headers=error.headers)
    kinds: dict[int, type[BacktalkError]] = {413: TooLarge, 415: UnsupportedMedia}
    return kinds.get(error.status_code, InvalidRequest)(str(error.detail))


_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}


def from_validation(errors: Sequence[Any]) -> InvalidRequest:
    """The first of pydantic's errors, with the exact parameter that it is about."""
    first = errors[0]
    param = param_of(first["loc"])
    kind = first["type"]
    wrong_type = kind.endswith(("_type", "_parsing")) or kind in ("int_from_float", "string_unicode")
    code = _CODES.get(kind) or ("invalid_type" if wrong_type else "invalid_value")
    if kind == "model_attributes_type" and isinstance(first.get("input"), bytes):
        return InvalidRequest("The body must be JSON: send it with the header content-type: application/json.")
    if kind == "missing":
        what = f"Missing required parameter: '{param}'." if param else "A JSON body is required."
    elif kind == "extra_forbidden":
        what = f"Unknown parameter: '{param}'."
    elif kind == "json_invalid":
        return InvalidRequest("The body is not valid JSON.", code=None)
    elif kind == "value_error":
        what = str(first["ctx"]["error"])
    else:
        what = f"Invalid value for '{param}': {first['msg']}." if param else f"Invalid body: {first['msg']}."
    return InvalidRequest(what, param=param or None, code=code)


def param_of(loc: Sequence[str | int]) -> str:
    """`('body', 'input', 0, 'content')` as `input[0].content`."""
    text = ""
    for step in loc[1:]:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
