"""The route class of our own routes: bodies are read by msgspec, which is fast and refuses what JSON must not hold."""

from collections.abc import Callable, Coroutine
from typing import Any, get_args

import msgspec
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from backtalk.core.errors import InvalidRequest
from backtalk.http.openapi import errors

MAX_DEPTH = 64
MAX_FILES = 20
"""Files of one multipart body."""
_MAX_FIELDS = 100


class _Request(Request):
    known: frozenset[str] | None = None
    """The fields of the route's body, where the server is strict about them."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = decode(await self.body())
            if self.known is not None and isinstance(self._json, dict):
                _refuse_unknown(self._json.keys() - self.known)
        return self._json


class _Route(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        fields = self._body_fields()

        async def handle(request: Request) -> Response:
            _refuse_nul(request)
            ours = _Request(request.scope, request.receive)
            if request.scope.get("state", {}).get("strict"):
                ours.known = fields
            return await handler(ours)

        return handle

    def _body_fields(self) -> frozenset[str] | None:
        """The fields of the body's model; None for a route without one."""
        for parameter in self.dependant.body_params:
            for model in (parameter.field_info.annotation, *get_args(parameter.field_info.annotation)):
                if hasattr(model, "model_fields"):
                    return frozenset(model.model_fields)
        return None


def _refuse_nul(request: Request) -> None:
    """Of ids and cursors with a NUL one database says that they are unknown, another that they are no text."""
    if "\0" in request.scope["path"] or b"%00" in request.scope["query_string"]:
        raise InvalidRequest("The address contains a NUL character.", code="invalid_value")


def _refuse_unknown(names: set[str]) -> None:
    for name in sorted(names):
        raise InvalidRequest(f"Unknown parameter: '{name[:128]}'.", param=name[:128], code="unknown_parameter")


def router(**options: Any) -> APIRouter:
    """A router whose routes read JSON our way, and say what every one of them may answer."""
    return APIRouter(
        route_class=_Route,
        responses=errors(400, 401, "default"),
        form_limits={"max_files": MAX_FILES, "max_fields": _MAX_FIELDS},
        **options,
    )


def decode(body: bytes) -> Any:
    """JSON as Python values. Raises InvalidRequest for what is not JSON, not Unicode, or nested too deeply."""
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deep(value):
        raise _too_deep()
    return value


def _is_deep(value: Any) -> bool:
    """Whether it has more than `MAX_DEPTH` levels; taken apart level by level, for recursion is what it is a guard of."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The JSON body is nested more than {MAX_DEPTH} levels deep.")


class JSON(Response):
    """A JSON answer written by msgspec."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else msgspec.json.encode(content)
