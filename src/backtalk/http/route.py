"""The route class of our own routes: bodies are read by msgspec, which is fast and refuses what JSON must not hold."""

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from backtalk.core.errors import InvalidRequest
from backtalk.http.openapi import errors


class _Request(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = decode(await self.body())
        return self._json


class _Route(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_Request(request.scope, request.receive))

        return handle


def router(**options: Any) -> APIRouter:
    """A router whose routes read JSON our way, and say what every one of them may answer."""
    return APIRouter(route_class=_Route, responses=errors(400, 401, "default"), **options)


def decode(body: bytes) -> Any:
    """JSON as Python values. Raises InvalidRequest for what is not JSON, not Unicode, or nested too deeply."""
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise InvalidRequest("The JSON body is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None


class JSON(Response):
    """A JSON answer written by msgspec."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else msgspec.json.encode(content)
