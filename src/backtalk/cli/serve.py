"""`backtalk serve`: one process that owns its server, or several under uvicorn's supervisor."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from uvicorn.importer import ImportFromStringError, import_from_string
from uvicorn.supervisors import ChangeReload, Multiprocess

from backtalk import __version__
from backtalk.access.service import Access
from backtalk.cli.common import fail, make_home, on_database, read_settings, see_working_folder
from backtalk.http.access_log import logging_config
from backtalk.http.protocol import Protocol, SocketProtocol
from backtalk.storage import Storage

OURS = "backtalk.cli.asgi:app"
KEEP_ALIVE = 75  # seconds; longer than the clients' pools keep a connection, so that they never write into a closed one
_OTHER_FILES = 64
"""Files that a process has open besides its connections."""
LEAVE_SECONDS = 0.5
_LEVELS = ("debug", "info", "warning", "error")
_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104  # compared with, not bound to


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = 8000,
    app: Annotated[str | None, typer.Option(help="Your own application, as `module:attribute`.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of database and files (BACKTALK_HOME).")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Restart when a source file changes.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that serve.")] = 1,
    grace: Annotated[int, typer.Option(min=0, help="Seconds that open streams may go on after SIGTERM.")] = 30,
    access_log: Annotated[
        bool | None, typer.Option("--access-log/--no-access-log", help="A log line for each request. Default: yes.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error. Default: info.")] = None,
) -> None:
    """Serve the API, on this machine only unless told otherwise."""
    _configure(host, home, access_log, log_level)
    settings = read_settings()
    make_home(settings)
    if not _is_loopback(host):
        _demand_key(host)
    else:
        on_database(_nothing)
    see_working_folder()
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "http": partial(Protocol, most=_room_for(settings.max_connections), write_seconds=settings.write_timeout),
        "ws": partial(SocketProtocol, write_seconds=settings.write_timeout),
        "access_log": False,
        "log_config": logging_config(settings.log_format, settings.log_level, access=settings.access_log),
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": KEEP_ALIVE,
        "timeout_graceful_shutdown": grace,
    }
    if reload or workers > 1:
        options |= {"reload": reload, "workers": None if reload else workers}
    with contextlib.closing(_listen(host, port)) as listener:
        _serve(app or OURS, listener, options)


def _serve(target: str, listener: socket.socket, options: dict[str, Any]) -> None:
    """Serves on a port that is already taken, so that a mistake there shows before anything is loaded."""
    port = listener.getsockname()[1]
    os.environ["BACKTALK_PORT"] = str(port)
    url = _url(options["host"], port)
    if options.get("reload") or options.get("workers"):
        config = uvicorn.Config(target, **options)
        typer.echo(_banner(url, []))
        if config.should_reload:
            ChangeReload(config, target=uvicorn.Server(config).run, sockets=[listener]).run()
        else:
            Multiprocess(config, sockets=[listener]).run()
    else:
        app = _load(target)
        config = uvicorn.Config(app, **options)
        Server(config, started=lambda: typer.echo(_banner(url, _found(app)))).run(sockets=[listener])


class Server(uvicorn.Server):
    """uvicorn's server; it tells when it is up, and a signal that it obeyed is no failure: exit code 0."""

    def __init__(self, config: uvicorn.Config, *, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._tell_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.server_state.tasks:
            typer.echo(
                f"Stopping in {self.config.timeout_graceful_shutdown} s at most; Ctrl-C stops at once.", err=True
            )
        await self._announce()
        await super().shutdown(sockets=sockets)

    async def _announce(self) -> None:
        """Takes no new connections, and for a moment has every answer say `Connection: close`.

        Without it a client that asks all the time would find its connection closed under the request that it sends.
        """
        for server in self.servers:
            server.close()
        if self.server_state.connections:
            self.server_state.default_headers.append((b"connection", b"close"))
            await asyncio.sleep(LEAVE_SECONDS)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def _configure(host: str, home: Path | None, access_log: bool | None, log_level: str | None) -> None:
    """Options become environment, so that worker processes and the user's own application see them too."""
    if home is not None:
        os.environ["BACKTALK_HOME"] = str(home.absolute())
    if host not in _WILDCARDS and not _is_address(host) and host != "localhost":
        os.environ["BACKTALK_HOSTS"] = ",".join(filter(None, [os.environ.get("BACKTALK_HOSTS"), host]))
    if access_log is not None:
        os.environ["BACKTALK_ACCESS_LOG"] = str(access_log)
    if log_level is not None:
        if log_level.lower() not in _LEVELS:
            fail(f"there is no log level '{log_level}': use {', '.join(_LEVELS[:-1])} or {_LEVELS[-1]}.", 2)
        os.environ["BACKTALK_LOG_LEVEL"] = log_level.lower()


async def _nothing(_: Storage) -> None:
    """Only opens the database and brings it up to date."""


def _demand_key(host: str) -> None:
    if not on_database(lambda storage: Access(storage).has_keys()):
        fail(
            f"{host} can be reached from other machines, and there is no API key yet. "
            "Make one with `backtalk keys create`, or serve on 127.0.0.1.",
            2,
        )


def _room_for(connections: int) -> int:
    """How many of them there are files for, once more were asked for: each may need a second one, to a model server."""
    try:
        import resource  # noqa: PLC0415  # Windows has none, and no such limit
    except ImportError:
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + _OTHER_FILES
    if soft < wanted and soft != resource.RLIM_INFINITY:
        with contextlib.suppress(ValueError, OSError):  # macOS has limits that it does not tell of
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return max(1, min(connections, (soft - _OTHER_FILES) // 2))
    return connections


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        fail(f"cannot listen on {host}:{port}: {error.strerror}. Choose another with --host or --port.")


def _load(target: str) -> Any:
    """The application. A mistake in the user's own code shows as Python shows it, one in our settings in a line."""
    try:
        return import_from_string(target)
    except ImportFromStringError as error:
        fail(str(error).strip(), 2)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        if target != OURS:
            raise
        fail(f"the settings cannot be used: {error}", 2)


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ip_address(host)
        return True
    return False


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _url(host: str, port: int) -> str:
    name = "127.0.0.1" if host in _WILDCARDS else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def _found(application: Any) -> list[tuple[str, str]]:
    """What the application says it found: models, database, embedder. Users' own applications say nothing."""
    describe = getattr(application, "describe", None)
    return list(describe()) if describe is not None else []


def _banner(url: str, found: list[tuple[str, str]]) -> str:
    lines = [*found, ("API", f"{url}/v1"), ("try it", f"{url}/docs")]
    return "\n".join([f"Backtalk {__version__}", *(f"  {label:<9} {text}" for label, text in lines)])
