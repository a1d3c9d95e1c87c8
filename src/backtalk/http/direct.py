"""A way from a stream to its connection that passes everything in between: a chunk costs a write, and no coroutine."""

from typing import TYPE_CHECKING, Any, ClassVar

from starlette.types import Scope, Send

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Direct:
    """Offered by `http.protocol` as an ASGI extension. Whoever wraps `send` to see or change bodies must `refuse` it;
    an application takes it only where nobody has wrapped the `send` that it is called with."""

    NAME: ClassVar = "backtalk.direct"

    def __init__(self, cycle: "RequestResponseCycle") -> None:
        self._cycle = cycle

    def belongs_to(self, send: Send) -> bool:
        """Whether `send` is the server's own."""
        return getattr(send, "__self__", None) is self._cycle

    def write(self, chunk: bytes) -> bool:
        """Writes a chunk of a body that has begun. False: it cannot be done like this now, use `send`."""
        cycle = self._cycle
        if not cycle.chunked_encoding or cycle.flow.write_paused or cycle.disconnected or cycle.response_complete:
            return False
        cycle.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        return True


def offered(scope: Scope) -> Direct | None:
    """The one that may be used."""
    extensions: dict[str, Any] = scope.get("extensions", {})
    return extensions.get(Direct.NAME)


def refuse(scope: Scope) -> None:
    """Has everything go through `send`."""
    scope.get("extensions", {}).pop(Direct.NAME, None)
