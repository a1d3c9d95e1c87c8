"""The routes of a resource. It is the user's own: all its errors have FastAPI's shape, `{"detail": …}`."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Body, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from backtalk.core.errors import BacktalkError, InvalidRequest, TooLarge, UnsupportedMedia
from backtalk.domain.caller import Caller
from backtalk.http.caller import caller
from backtalk.http.paging import page
from backtalk.http.route import JSON, decode
from backtalk.resources.service import MOST_BYTES, Resources, check_value
from backtalk.resources.wire import Detail, Shape, ValidationError

Who = Annotated[Caller, Depends(caller)]
_MOST_ERRORS = 100
"""Told of one body: a megabyte of wrong entries would be answered with 50, after half a minute of work."""


def routes(
    resources: Resources, name: str, model: type[Any], *, prefix: str, searchable: bool, tags: Sequence[str]
) -> APIRouter:
    """The routes of objects of `model`. Raises ValueError for what cannot be a resource."""
    shape, kind = Shape(model, searchable=searchable), resources.declare(name, searchable=searchable)
    what = model.__name__
    known: dict[int | str, dict[str, Any]] = {404: {"model": Detail, "description": "There is no such object."}}
    api = APIRouter(prefix=prefix, tags=[*tags], route_class=_Route)

    @api.get("", summary=f"List {name}", response_model=shape.page)
    async def listing(who: Who, query: Annotated[shape.query, Query()]) -> Response:  # type: ignore[name-defined]  # made at run time
        filters, words = shape.filters(query), getattr(query, "q", None)
        if words is None:
            order_by = shape.fields.get(query.order_by)
            found = await resources.listing(who, kind, query.cursor, order_by, filters)
        elif "order_by" in query.model_fields_set:
            raise InvalidRequest("A search is ordered by score: leave out 'order_by'.", param="order_by")
        else:
            found = await resources.search(who, kind, words, query.cursor, filters)
        return JSON(page(found, query.limit))

    @api.post("", summary=f"Create {what}", response_model=shape.stored, status_code=201)
    async def create(who: Who, request: Request, body: Annotated[model, Body()]) -> Response:  # type: ignore[valid-type]  # as above
        made = await resources.create(who, kind, shape.dump(body))
        return JSON(made, 201, {"location": f"{quote(request.url.path)}/{made['id']}"})

    @api.get("/{id}", summary=f"Retrieve {what}", response_model=shape.stored, responses=known)
    async def get(who: Who, id: str) -> Response:  # noqa: A002  # the wire's name
        return JSON(await resources.get(who, kind, id))

    @api.put("/{id}", summary=f"Replace {what}", response_model=shape.stored, responses=known)
    async def replace(who: Who, id: str, body: Annotated[model, Body()]) -> Response:  # type: ignore[valid-type]  # noqa: A002  # as above
        return JSON(await resources.replace(who, kind, id, shape.dump(body)))

    @api.patch("/{id}", summary=f"Change {what}", response_model=shape.stored, responses=known)
    async def patch(who: Who, id: str, body: Annotated[shape.patch, Body()]) -> Response:  # type: ignore[name-defined]  # noqa: A002  # as above
        """Merges the body into the object (RFC 7396): objects are merged, `null` removes, anything else replaces."""
        try:
            return JSON(await resources.patch(who, kind, id, lambda data: shape.patched(data, body)))
        except ValidationError as error:
            found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
            raise RequestValidationError(found) from None

    @api.delete("/{id}", summary=f"Delete {what}", status_code=204, responses=known)
    async def delete(who: Who, id: str) -> Response:  # noqa: A002  # the wire's name
        await resources.delete(who, kind, id)
        return Response(status_code=204)

    return api


class _Request(Request):
    """Reads no more than an object may have, and only JSON that can be stored."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        size = 0
        async for chunk in super().stream():
            size += len(chunk)
            if size > MOST_BYTES:
                raise TooLarge(f"The body is larger than the {MOST_BYTES:,} bytes that are allowed here.")
            yield chunk

    async def json(self) -> Any:
        value = decode(await self.body())
        check_value(value)  # before Pydantic, whose serializers have a depth of their own
        return value


class _Route(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(_Request(request.scope, request.receive))
            except BacktalkError as error:
                return _refused(error)
            except HTTPException as error:
                if not isinstance(error.__cause__, BacktalkError):  # FastAPI hides what went wrong with a body
                    raise
                return _refused(error.__cause__)
            except RequestValidationError as error:
                if isinstance(error.body, bytes):
                    return _refused(UnsupportedMedia("Send JSON, with the header content-type: application/json."))
                raise RequestValidationError(error.errors()[:_MOST_ERRORS], body=error.body) from None

        return handle


def _refused(error: BacktalkError) -> Response:
    return JSON({"detail": error.message}, error.status, error.headers)
