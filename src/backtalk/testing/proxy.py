"""A TCP proxy that breaks connections on demand: what networks do to a server, for tests, ours and yours."""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

T = TypeVar("T")

_READ = 64 * 2**10
_PIECES_A_SECOND = 20
_PATIENCE = 10.0
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing throws away what is unsent and says RST."""


@dataclass(frozen=True, eq=False)
class Fault:
    """What happens to the bytes of one direction. Of each connection they are counted from when the fault was set."""

    delay: float = 0.0
    """Seconds that each piece waits."""
    rate: float | None = None
    """Bytes a second."""
    cut_after: int | None = None
    """After so many bytes both ends are reset."""
    hold_after: int | None = None
    """After so many bytes nothing is passed on, not even the end; the connections stay open."""


PASS = Fault()


def delay(seconds: float) -> Fault:
    """Each piece comes so much later."""
    return Fault(delay=seconds)


def slow(bytes_per_second: float) -> Fault:
    return Fault(rate=bytes_per_second)


def cut_after(count: int) -> Fault:
    """`count` bytes pass, then both ends are reset."""
    return Fault(cut_after=count)


def blackhole(count: int = 0) -> Fault:
    """`count` bytes pass, then everything is swallowed, the end too."""
    return Fault(hold_after=count)


def half_open() -> Fault:
    """Accepts and reads, never answers, says no FIN: a machine that lost its power."""
    return blackhole(0)


@dataclass
class Link:
    """A client's connection and its own to the server. Times are those of `time.monotonic`, None until it happens."""

    opened: float = field(default_factory=time.monotonic)
    to_server: int = 0
    """Bytes that were passed on."""
    to_client: int = 0
    client_closed: float | None = None
    """When the client closed, or was cut off."""
    server_closed: float | None = None


class FaultProxy:
    """Stands in front of `host`:`port` on a loopback port of its own, in a thread of its own.

        async with FaultProxy("127.0.0.1", 8080) as proxy:      # or: with FaultProxy("127.0.0.1", 8080).running() as proxy:
            settings = Settings(upstream=proxy.url_for("/v1"))
            proxy.to_client = cut_after(500)

    `to_server` and `to_client` are the faults of each direction; they may be set at any time and hold for all
    connections. `refuse`, `accept` and `cut` work from any thread. `links` has a record of every connection.
    """

    def __init__(self, host: str, port: int) -> None:
        self.to_server = PASS
        self.to_client = PASS
        self.links: list[Link] = []
        self.host = "127.0.0.1"
        self.port = 0
        self._target = (host, port)
        self._loop: asyncio.AbstractEventLoop
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    # ── its life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Proxies until the block ends; then every connection is closed."""
        self._start()
        try:
            yield self
        finally:
            self._stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._stop)

    def _start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self.accept()

    def _stop(self) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    # ── what a test does ─────────────────────────────────────────────────────────────────────────────────────────────

    def url_for(self, path: str = "", scheme: str = "http") -> str:
        """The URL of `path` through the proxy."""
        return f"{scheme}://{self.host}:{self.port}{path}"

    @property
    def open(self) -> int:
        """Connections whose client has not closed."""
        return sum(link.client_closed is None for link in self.links)

    def heal(self) -> None:
        """Everything passes again; what was swallowed stays lost."""
        self.to_server = self.to_client = PASS

    def refuse(self) -> None:
        """Nobody listens on the port any more. Open connections go on."""
        self._run(self._unlisten())

    def accept(self) -> None:
        """Listens, on the port that it had before."""
        self._run(self._listen())

    def cut(self) -> None:
        """Resets every open connection."""
        self._run(self._reset_all())

    # ── on its thread ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, self.host, self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _unlisten(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            await asyncio.sleep(0)

    async def _reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _close(self) -> None:
        await self._unlisten()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task  # noqa: S101  # it runs in one
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        link = Link()
        self.links.append(link)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._join(link, reader, writer)
        finally:
            writer.transport.abort()
            link.client_closed = link.client_closed or time.monotonic()

    async def _join(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        pair = {writer, server_writer}
        self._writers |= pair
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(link, "to_server", reader, server_writer))
                both.create_task(self._pump(link, "to_client", server_reader, writer))
        except* _CutError:
            for end in pair:
                _reset(end)
        except* OSError:
            pass
        finally:
            self._writers -= pair
            server_writer.transport.abort()
            link.server_closed = link.server_closed or time.monotonic()

    async def _pump(self, link: Link, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = "client_closed" if way == "to_server" else "server_closed"
        flow = _Flow(link, way, writer)
        try:
            while data := await reader.read(_READ):
                await flow.forward(self, data)
        finally:
            setattr(link, source, getattr(link, source) or time.monotonic())
        await flow.end(self)


class _CutError(Exception):
    """Both ends are to be reset."""


class _Flow:
    """One direction of one connection."""

    def __init__(self, link: Link, way: str, writer: asyncio.StreamWriter) -> None:
        self._link = link
        self._way = way
        self._writer = writer
        self._fault = PASS
        self._passed = 0  # since the fault was set

    def _current(self, proxy: FaultProxy) -> Fault:
        fault: Fault = getattr(proxy, self._way)
        if fault is not self._fault:
            self._fault, self._passed = fault, 0
        return fault

    async def forward(self, proxy: FaultProxy, data: bytes) -> None:
        while data:
            fault = self._current(proxy)
            if fault.delay:
                await asyncio.sleep(fault.delay)
            piece = data[: _room(fault, self._passed, len(data))]
            if piece:
                await self._pass(piece, fault)
            if fault.cut_after is not None and self._passed >= fault.cut_after:
                raise _CutError
            if fault.hold_after is not None and self._passed >= fault.hold_after:
                return
            data = data[len(piece) :]

    async def _pass(self, piece: bytes, fault: Fault) -> None:
        self._writer.write(piece)
        await self._writer.drain()
        self._passed += len(piece)
        setattr(self._link, self._way, getattr(self._link, self._way) + len(piece))
        if fault.rate:
            await asyncio.sleep(len(piece) / fault.rate)

    async def end(self, proxy: FaultProxy) -> None:
        """Passes the end on, unless it is to be swallowed."""
        if self._current(proxy).hold_after is None:
            with contextlib.suppress(OSError):
                self._writer.write_eof()


def _room(fault: Fault, passed: int, size: int) -> int:
    """How many bytes may pass at once."""
    limits = [limit - passed for limit in (fault.cut_after, fault.hold_after) if limit is not None]
    if fault.rate:
        limits.append(max(1, int(fault.rate / _PIECES_A_SECOND)))
    return max(0, min([size, *limits]))


def _reset(writer: asyncio.StreamWriter) -> None:
    known = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        known.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
