"""The gate: pure ASGI, before routing and before a byte of the body is read.

It lets a request to one of our paths in when its Host and Origin are ours and its key is good; or, while no key was ever
made, when it comes straight from this machine (local mode). A user's own routes pass; they ask `find_caller` when they
want to know.
"""

from collections.abc import Callable, Collection
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backtalk.access.service import Access, is_well_formed
from backtalk.core.errors import BacktalkError, Forbidden, Misdirected, Unauthorized
from backtalk.domain.caller import Caller
from backtalk.http.envelope import headers_for
from backtalk.http.errors import render
from backtalk.http.paths import path_of

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_FORWARDING = frozenset({"forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"})
_METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
_EXPOSED = "x-request-id, idempotent-replayed, request-id, retry-after, retry-after-ms"


class Gate:
    """Guards the paths that `is_ours` claims; those that `is_public` names need no key.

    `hosts` are names to answer to besides the loopback ones and the address that was connected to; `origins` are those
    whose pages may call, as `https://app.example`.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        *,
        hosts: Collection[str],
        origins: Collection[str],
        is_ours: Callable[[str], bool],
        is_public: Callable[[str], bool],
    ) -> None:
        self.app = app
        self.access = access
        self.hosts = LOOPBACK_NAMES | {_bracketed(host.lower()) for host in hosts}
        self.origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self.is_ours = is_ours
        self.is_public = is_public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})["find_caller"] = self.find_caller
        if self.is_ours(path_of(scope)):
            await self._guard(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def find_caller(self, scope: Scope) -> Caller:
        """Who asks. Raises Misdirected, Forbidden or Unauthorized."""
        headers = Headers(scope=scope)
        self._check_address(scope, headers)
        return await self._identify(scope, headers)

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        if origin.lower() in self.origins:
            send = _with_cors(send, origin)
        try:
            self._check_address(scope, headers)
            if _is_preflight(scope, headers):
                await _preflight(headers)(scope, receive, send)
                return
            if not self._is_open(scope):
                scope["state"]["caller"] = await self._identify(scope, headers)
        except BacktalkError as error:
            await _refuse(error, scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        """Public paths, and the probe `HEAD /` by which some clients look whether anyone is there."""
        return self.is_public(path_of(scope)) or (path_of(scope) == "/" and scope.get("method") == "HEAD")

    def _check_address(self, scope: Scope, headers: Headers) -> None:
        """Against DNS rebinding (a foreign name that points here) and foreign pages (an Origin that is not ours)."""
        host = headers.get("host", "").lower()
        name = _without_port(host)
        if name not in self.hosts and name != _local_address(scope):
            raise Misdirected(
                f"This server does not answer to the host '{name}'. Name it in BACKTALK_HOSTS if it is yours."
            )
        origin = headers.get("origin", "").lower()
        if origin and origin not in self.origins and origin.partition("://")[2] != host:
            raise Forbidden(
                f"Pages of the origin '{origin}' may not call this server. Name it in BACKTALK_ORIGINS if it is yours."
            )

    async def _identify(self, scope: Scope, headers: Headers) -> Caller:
        """By key; while there is none, by coming from this machine. SDKs send some key always, so there any will do."""
        secret = _secret(headers)
        if is_well_formed(secret) or await self.access.has_keys():
            try:
                return await self.access.authenticate(secret)
            except Unauthorized:
                if await self.access.has_keys():
                    raise _unauthorized(secret) from None
        if _is_local(scope, headers):
            return Caller()
        raise _no_key_yet()


def _unauthorized(secret: str) -> Unauthorized:
    if secret:
        words = "Incorrect API key provided. `backtalk keys list` shows the keys, `backtalk keys create` makes one."
    else:
        words = "You did not provide an API key: send `Authorization: Bearer …`. `backtalk keys create` makes one."
    return Unauthorized(words, headers={"www-authenticate": "Bearer"})


def _no_key_yet() -> Unauthorized:
    return Unauthorized(
        "Without keys this server serves only its own machine, directly. Run `backtalk keys create` there and send the "
        "key as `Authorization: Bearer …`.",
        headers={"www-authenticate": "Bearer"},
    )


def _secret(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()


def _is_local(scope: Scope, headers: Headers) -> bool:
    """Whether the client is a program on this machine, and not a proxy there that speaks for somebody else.

    A proxy's default request looks local: HTTP/1.0 is what nginx speaks by default.
    """
    if scope.get("http_version", "1.1") == "1.0" or not _is_loopback(scope):
        return False
    return not any(name in _FORWARDING or name.startswith("x-forwarded") for name in headers)


def _is_loopback(scope: Scope) -> bool:
    try:
        address = ip_address((scope.get("client") or ("",))[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _local_address(scope: Scope) -> str:
    """The address that the client connected to, as a Host header would spell it."""
    return _bracketed((scope.get("server") or ("",))[0] or "-")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    return scope.get("method") == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def _preflight(headers: Headers) -> Response:
    allowed = {
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": headers.get("access-control-request-headers", ""),
        "access-control-max-age": "600",
    }
    return Response(status_code=204, headers=allowed)


def _with_cors(send: Send, origin: str) -> Send:
    async def send_with_cors(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = _EXPOSED
            headers.add_vary_header("origin")
        await send(message)

    return send_with_cors


async def _refuse(error: BacktalkError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
    else:
        if scope["type"] == "websocket":  # which the envelope does not see
            error.headers |= {name.decode(): value.decode() for name, value in headers_for(scope)}
        await render(error)(scope, receive, send)
