"""Real servers for tests: `backtalk serve` as a child process, or any ASGI application in a thread; and SDK clients."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import uvicorn

from backtalk.http.protocol import Protocol

if TYPE_CHECKING:
    import openai
    from starlette.types import ASGIApp

_NOT_INHERITED = ("BACKTALK_", "UVICORN_", "OPENAI_", "ANTHROPIC_")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    """A loopback port that was free a moment ago; none of those that systems give to outgoing connections, lest one of
    these takes it meanwhile."""
    while True:
        port = random.randrange(12_000, 32_000)  # noqa: S311  # no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """`python -m backtalk serve` as a child process with a home and an environment of its own.

        with Server(tmp_path) as server:
            client(server.url).responses.create(input="Hello")

    `env` is added to this process's environment, from which settings and provider keys of the developer's own machine
    are kept out; `args` follow `serve` on the command line. The port stays the same over `restart()`. What the server
    printed lies in `log`, and error messages quote its end.
    """

    def __init__(
        self,
        home: Path,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] | None = None,
        port: int | None = None,
    ) -> None:
        self.home = Path(home)
        self.env = dict(env or {})
        self.args = list(args or ())
        self.port = port or free_port()
        self.log_file = self.home / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:40000`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Everything the server printed, over all its starts."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> Self:
        """Starts the process without waiting for it."""
        self.home.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "backtalk",
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            *self.args,
        ]
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=self.home, env=self._environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        return self

    def wait_ready(self, timeout: float = 30.0) -> Self:
        """Waits until `/healthz` answers 200. Raises RuntimeError with the end of the log if it does not."""
        deadline = time.monotonic() + timeout
        while not self._healthy():
            code = self._running().poll()
            if code is not None:
                raise RuntimeError(f"backtalk serve ended with exit code {code}:\n{self.log[-4000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"backtalk serve was not ready after {timeout:g} s:\n{self.log[-4000:]}")
            time.sleep(0.02)
        return self

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, and waits for the end. Returns the exit code; raises TimeoutExpired (after a SIGKILL) if it hangs."""
        process = self._running()
        process.terminate()
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    terminate = stop

    def kill(self) -> None:
        """SIGKILL: the server gets no chance to tidy up."""
        process = self._running()
        process.kill()
        process.wait()

    def restart(self) -> Self:
        """Stops it if it still runs, starts it on the same port and home, waits until it is ready."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        return self.start().wait_ready()

    def __enter__(self) -> Self:
        self.start()
        try:
            return self.wait_ready()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self.process is None:
            raise RuntimeError("the server was not started: call start(), or use it in a `with` statement")
        return self.process

    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not _is_setting(name)}
        defaults = {"BACKTALK_HOME": str(self.home), "BACKTALK_DISCOVER": "false", "PYTHONUNBUFFERED": "1"}
        return own | defaults | self.env

    def _healthy(self) -> bool:
        try:
            with _DIRECT.open(f"{self.url}/healthz", timeout=2.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _is_setting(name: str) -> bool:
    return name.startswith(_NOT_INHERITED) or name.endswith("_API_KEY")


@contextlib.contextmanager
def serve(app: "ASGIApp", *, timeout: float = 30.0) -> Iterator[str]:
    """Runs an ASGI application under uvicorn in a thread, its lifespan included; yields the URL it listens at."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=Protocol, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)

    def run() -> None:
        with contextlib.suppress(SystemExit):  # uvicorn's way to say that the lifespan failed
            server.run(sockets=[listener])

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + timeout
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the application did not start: its lifespan raised an error")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the application was not ready after {timeout:g} s")
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout)
        listener.close()


def client(url: str, **options: Any) -> "openai.OpenAI":
    """An `openai.OpenAI` pointed at the server. It does not retry, so that a test sees every error."""
    import openai  # noqa: PLC0415  # lazy: a development dependency

    return openai.OpenAI(**_client_options(url, options))


def async_client(url: str, **options: Any) -> "openai.AsyncOpenAI":
    """As `client`, for asyncio."""
    import openai  # noqa: PLC0415  # lazy: a development dependency

    return openai.AsyncOpenAI(**_client_options(url, options))


def _client_options(url: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"base_url": f"{url.rstrip('/')}/v1", "api_key": "local", "max_retries": 0} | options
