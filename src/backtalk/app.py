"""`Backtalk`: a FastAPI application with every room open. The only composition root, the only reader of settings."""

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from backtalk import __version__
from backtalk.access.gate import Gate
from backtalk.access.service import Access
from backtalk.conversations.answers import ANSWERS as CONVERSATION_ANSWERS
from backtalk.conversations.routes import routes as conversation_routes
from backtalk.conversations.service import Conversations
from backtalk.core.errors import BacktalkError
from backtalk.core.owner import new_owner
from backtalk.core.settings import Settings
from backtalk.core.watchdog import Watchdog
from backtalk.domain.caller import Caller
from backtalk.domain.turn import ContextSource
from backtalk.events import Log
from backtalk.files.answers import ANSWERS as FILE_ANSWERS
from backtalk.files.routes import routes as file_routes
from backtalk.files.service import Files
from backtalk.http import docs, errors, openapi
from backtalk.http.access_log import Observer, log_exchange
from backtalk.http.direct import offered, refuse
from backtalk.http.egress import Egress
from backtalk.http.envelope import Allowance, Envelope
from backtalk.http.metrics import Metrics
from backtalk.http.paths import path_of
from backtalk.http.route import JSON
from backtalk.idempotency.guard import Idempotency
from backtalk.idempotency.service import Keys
from backtalk.jobs.service import Jobs
from backtalk.models.base import Upstream
from backtalk.models.discovery import from_environ, on_loopback
from backtalk.models.prices import Price, Prices
from backtalk.models.registry import Models
from backtalk.resources.routes import routes as resource_routes
from backtalk.resources.service import Resources
from backtalk.retrieval.answers import ANSWERS as RETRIEVAL_ANSWERS
from backtalk.retrieval.documents import StoredDocuments
from backtalk.retrieval.routes import routes as retrieval_routes
from backtalk.retrieval.service import Retrieval
from backtalk.search.base import Embedder
from backtalk.serving.answers import ANSWERS as SERVING_ANSWERS
from backtalk.serving.routes import routes as serving_routes
from backtalk.storage import open_storage
from backtalk.storage.migrate import current, head, upgrade
from backtalk.turn import direct
from backtalk.turn.answers import ANSWERS as TURN_ANSWERS
from backtalk.turn.chat_routes import routes as chat_routes
from backtalk.turn.direct import Answer
from backtalk.turn.loop import Loop
from backtalk.turn.messages_routes import routes as messages_routes
from backtalk.turn.opening import Opener
from backtalk.turn.routes import routes as turn_routes
from backtalk.turn.run import Limits
from backtalk.turn.runner import Runner
from backtalk.turn.service import Turns
from backtalk.turn.socket import SocketLimits
from backtalk.turn.stored_chats import StoredChats
from backtalk.turn.tool_loop import FileSearch

if TYPE_CHECKING:
    from pydantic import BaseModel

PUBLIC = frozenset({"/healthz", "/readyz"})
_ANSWERS = (*TURN_ANSWERS, *CONVERSATION_ANSWERS, *FILE_ANSWERS, *RETRIEVAL_ANSWERS, *SERVING_ANSWERS)
METRICS = "/metrics"
_FORM_OVERHEAD = 2**20
"""Bytes of a multipart upload that are not the file."""


def is_ours(path: str) -> bool:
    """Whether a path is Backtalk's: those are guarded and speak OpenAI's error shape; all others are the user's."""
    return path.startswith("/v1/") or path == "/v1" or path in PUBLIC or docs.is_docs(path)


class Backtalk(FastAPI):
    """The backend behind a ChatGPT-shaped application: a FastAPI application that you extend as any other.

        app = Backtalk()

        @app.get("/")
        def hello():
            return {"hello": "world"}

    `settings` default to arguments, environment, `.env` and `backtalk.toml`. `models` are instances, classes or
    `module:attribute` strings of what has a `stream(prompt)`; `embedder` is one of your own (`search.base.Embedder`). Everything else goes to FastAPI as it is; a `lifespan`
    of your own runs inside ours.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        models: Sequence[Any] = (),
        embedder: Embedder | None = None,
        lifespan: Callable[[FastAPI], contextlib.AbstractAsyncContextManager[Any]] | None = None,
        **options: Any,
    ) -> None:
        self.settings = settings or Settings()
        self._inner_lifespan = lifespan
        docs_url = options.pop("docs_url", docs.URL)
        options["openapi_tags"] = docs.tags(options.get("openapi_tags"))
        options = {"title": "Backtalk", "version": __version__, "description": docs.DESCRIPTION, **options}
        super().__init__(lifespan=_lifespan, docs_url=None, redoc_url=options.pop("redoc_url", None), **options)
        self.docs_url = docs_url
        self._open_rooms(models, embedder)
        self._include_routes()
        docs.install(self)
        errors.install(self, self._is_ours)
        theirs = len(self.user_middleware)
        self.add_middleware(Idempotency, keys=self.idempotency, is_ours=self._is_ours)
        self._guard(self, self._is_ours)
        self.add_middleware(
            Envelope,
            strict=self.settings.strict,
            allowance=self._allowance,
            observers=self._observers(),
            max_held=self.settings.max_bodies,
        )
        self._ours = len(self.user_middleware) - theirs
        self._alone = False  # no middleware but ours, once the stack is built

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (direct := offered(scope)) and not (self._alone and direct.belongs_to(send)):
            refuse(scope)
        await super().__call__(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        self._alone = len(self.user_middleware) == self._ours
        return super().build_middleware_stack()

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document: FastAPI's, and what it cannot know of our answers. Made when it is first asked for."""
        before = self.openapi_schema
        schema = super().openapi()
        if schema is not before:
            openapi.complete(schema, _ANSWERS, lambda path: self._is_ours(path) and path not in PUBLIC)
        return schema

    def add_source(self, source: ContextSource) -> None:
        """Adds a context source: from now on each turn asks it for pieces that may help."""
        self.opener.sources.append(source)

    def resource(
        self,
        name: str,
        model: "type[BaseModel]",
        *,
        prefix: str | None = None,
        searchable: bool = False,
        tags: Sequence[str] | None = None,
    ) -> APIRouter:
        """Serves objects of a Pydantic model at `prefix`, by default `/name`: list, create, get, replace, patch, delete.

        With `searchable`, each is also a document of its project's vector store of that name. Returns the router, for
        applications that Backtalk is mounted in. Raises ValueError for what cannot be a resource.
        """
        prefix, tags = prefix or f"/{name}", tags or [name]
        made = resource_routes(self.resources, name, model, prefix=prefix, searchable=searchable, tags=tags)
        self.include_router(made)
        return made

    async def respond(self, input: Any, *, caller: Caller | None = None, **fields: Any) -> Answer:  # noqa: A002  # the wire's name
        """Runs a turn and returns the Response, a dict whose `text` is the answer.

        `input` and `fields` are those of `POST /v1/responses`. Raises errors of `backtalk.core.errors`.
        """
        return await direct.respond(self.turns, caller or Caller(), {"input": input, **fields})

    def stream(self, input: Any, *, caller: Caller | None = None, **fields: Any) -> AsyncIterator[dict[str, Any]]:  # noqa: A002
        """As `respond`, event by event: dicts of the Responses stream, each with `type` and `sequence_number`."""
        return direct.stream(self.turns, caller or Caller(), {"input": input, **fields})

    def describe(self) -> Sequence[tuple[str, str]]:
        """What was found, in a few words: `backtalk serve` shows it."""
        upstreams = ", ".join(f"{upstream.name} ({upstream.url})" for upstream in self.models.upstreams)
        return [
            ("models", upstreams or "backtalk/extractive, the built-in reader (set BACKTALK_UPSTREAM for a model)"),
            ("database", self.storage.name),
            ("home", str(self.settings.home)),
        ]

    def _open_rooms(self, models: Sequence[Any], embedder: Embedder | None) -> None:
        """Makes every service. Nothing is started and nothing is read here: the lifespan does that."""
        settings, owner = self.settings, new_owner()
        self.storage = open_storage(settings.database_url)
        self.egress = Egress(connect_timeout=settings.connect_timeout, idle_timeout=settings.idle_timeout)
        self.access = Access(self.storage)
        self.jobs = Jobs(self.storage, owner)
        self.idempotency = Keys(self.storage, owner)
        self.files = Files(self.storage, settings.home / "files")
        self.models = models_of(self.egress, settings, models)
        self.retrieval = Retrieval(self.storage, self.files, self.jobs, settings.home, embedder=embedder)
        self.resources = Resources(self.storage, self.jobs, StoredDocuments(self.files, self.retrieval))
        self.conversations = Conversations(self.storage)
        self.log = Log(self.storage, owner, gap=settings.commit_gap, behind=settings.durability == "behind")
        limits = Limits(
            context_tokens=settings.context_tokens,
            tool_rounds=settings.max_tool_rounds,
            tool_timeout=settings.tool_timeout,
            source_timeout=settings.source_timeout,
            runs=settings.max_runs,
        )
        self.opener = Opener(self.storage, self.retrieval, self.retrieval.attachments, limits)
        loop = Loop(self.opener, FileSearch(self.retrieval, limits.tool_timeout), limits)
        prices = Prices([Price(**price.model_dump()) for price in settings.prices])
        self.runner = Runner(self.storage, self.log, self.models.resolve, self.opener, loop, limits, prices.cost)
        self.turns = Turns(self.storage, self.log, self.runner)
        self.metrics = Metrics(lambda: self.runner.running) if settings.metrics else None

    def _guard(self, app: FastAPI, guards: Callable[[str], bool]) -> None:
        """Puts the gate in front of `app`: it guards the paths that it is told to, and knows the caller of all others."""
        app.add_middleware(
            Gate,
            access=self.access,
            hosts=self.settings.hosts,
            origins=self.settings.origins,
            is_ours=guards,
            is_public=lambda path: path in PUBLIC or docs.is_docs(path),
        )

    def _include_routes(self) -> None:
        for routes in (
            turn_routes(self.turns, self._socket_limits()),
            chat_routes(self.turns, StoredChats(self.storage)),
            messages_routes(self.turns),
            conversation_routes(self.conversations),
            file_routes(self.files),
            retrieval_routes(self.retrieval),
            serving_routes(self.models, self.egress, self.retrieval.embedder),
            _health_routes(self),
        ):
            self.include_router(routes)

    def _socket_limits(self) -> SocketLimits:
        settings = self.settings
        return SocketLimits(settings.max_body, settings.socket_idle, settings.socket_life)

    def _is_ours(self, path: str) -> bool:
        return is_ours(path) or (path == METRICS and self.metrics is not None)

    def _observers(self) -> list[Observer]:
        return [log_exchange, *([self.metrics.observe] if self.metrics else ())]

    def _allowance(self, path: str) -> Allowance | None:
        settings = self.settings
        if not self._is_ours(path):
            return None
        if path == "/v1/files":
            return Allowance(settings.max_upload + _FORM_OVERHEAD, 10 * settings.body_timeout, held=False)
        return Allowance(settings.max_body, settings.body_timeout)

    async def _discover(self) -> None:
        """Adds model servers that listen on this machine, for a configuration that names none."""
        for upstream in await on_loopback(self.egress, _own_port()):
            self.models.add_upstream(upstream)


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[Any]:
    """Starts the rooms from the ground up, runs the user's lifespan, and stops them in the opposite order."""
    assert isinstance(app, Backtalk)  # noqa: S101  # it is handed to no other application
    async with contextlib.AsyncExitStack() as stack:
        await upgrade(app.storage)
        stack.push_async_callback(app.storage.close)
        stack.push_async_callback(app.egress.close)
        for room in (
            Watchdog(app.settings.watchdog),
            app.log,
            app.files,
            app.retrieval,
            app.jobs,
            app.idempotency,
            app.runner,
        ):
            await room.start()
            stack.push_async_callback(room.stop)
        if app.settings.discover and not app.models.upstreams:
            await app._discover()
        state = await stack.enter_async_context(app._inner_lifespan(app)) if app._inner_lifespan else None
        _calm_collector()
        yield state


def _calm_collector() -> None:
    """What is loaded by now stays: the garbage collector need not look at it over and over, nor after every 700 objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def mount(app: FastAPI, settings: Settings | None = None, **options: Any) -> Backtalk:
    """Adds Backtalk to a FastAPI application that exists: `/v1/…`, `/healthz` and `/readyz`, and our lifespan around its own.

    Its other routes stay as they are, and may take `Depends(backtalk.caller)`. `options` go to `Backtalk`.
    """
    ours = Backtalk(settings, **options)
    theirs = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def both(host: FastAPI) -> AsyncIterator[Any]:
        async with _lifespan(ours), theirs(host) as state:
            yield state

    app.router.lifespan_context = both
    app.router.routes.insert(0, _Mounted(ours))
    ours._guard(app, lambda _: False)
    return ours


class _Mounted(BaseRoute):
    """Takes our paths out of a host application's, with no prefix stripped."""

    def __init__(self, app: Backtalk) -> None:
        self.app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = path_of(scope) if scope["type"] in ("http", "websocket") else ""
        ours = path.startswith("/v1/") or path in PUBLIC or (path == METRICS and self.app.metrics is not None)
        return (Match.FULL if ours else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def models_of(egress: Egress, settings: Settings, models: Sequence[Any] = ()) -> Models:
    """Every model that the settings and the user name."""
    aliases = {name: [ids] if isinstance(ids, str) else ids for name, ids in settings.aliases.items()}
    return Models(egress, upstreams_of(settings), [*settings.models, *models], settings.model, aliases)


def upstreams_of(settings: Settings) -> list[Upstream]:
    """The model servers of the settings, then those whose keys are in the environment."""
    found = []
    if settings.upstream:
        key = settings.upstream_key.get_secret_value() if settings.upstream_key else None
        found.append(Upstream("upstream", settings.upstream, key))
    for entry in settings.upstreams:
        key = entry.key(os.environ)
        found.append(Upstream(entry.name, entry.url, key, tuple(entry.models), entry.adapter, entry.concurrency))
    return [*found, *(from_environ(os.environ, _own_port()) if settings.discover else ())]


def _own_port() -> int | None:
    """The port of this server where `backtalk serve` told it, so that it never takes itself for a model server."""
    port = os.environ.get("BACKTALK_PORT", "")
    return int(port) if port.isdigit() else None


def _health_routes(app: Backtalk) -> APIRouter:
    api = APIRouter(tags=["Health"])

    @api.get(
        "/healthz",
        operation_id="getHealth",
        summary="Whether the process serves",
        response_model=None,
        responses={200: {"description": "It does."}},
    )
    async def healthz() -> Response:
        return JSON({"status": "ok", "version": __version__})

    @api.get(
        "/readyz",
        operation_id="getReadiness",
        summary="Whether requests would succeed",
        response_model=None,
        responses={
            200: {"description": "They would."},
            503: {"description": "The database is away or being upgraded."},
        },
    )
    async def readyz() -> Response:
        """Asks the database."""
        try:
            async with asyncio.timeout(5):
                revision = await app.storage.read(current)
        except (BacktalkError, TimeoutError) as error:
            return JSON({"status": "unavailable", "database": str(error) or "no answer"}, status_code=503)
        ready = revision == head()
        return JSON({"status": "ok" if ready else "migrating", "schema": revision}, status_code=200 if ready else 503)

    if app.metrics:
        api.add_api_route(
            METRICS,
            _metrics_route(app.metrics),
            operation_id="getMetrics",
            summary="Figures for Prometheus",
            response_class=PlainTextResponse,
            response_model=None,
        )
    return api


def _metrics_route(metrics: Metrics) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def figures() -> Response:
        return Response(metrics.render(), media_type=metrics.content_type)

    return figures
