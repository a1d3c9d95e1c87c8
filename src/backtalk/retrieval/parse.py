"""Parsing in child processes that are reused, limited, and replaced when a file brings them down."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import msgspec

from backtalk.retrieval.formats import Unreadable

CHILDREN = 2
SECONDS = 60.0
CPU_SECONDS = 30
MEMORY_BYTES = 2**30
_TRIES = 2


class Parser:
    """Text of files, one child for each that is read at the same time.

    A file may take `seconds` of wall time and `cpu_seconds` of a processor; a child `memory` bytes.
    """

    def __init__(
        self,
        *,
        children: int = CHILDREN,
        seconds: float = SECONDS,
        cpu_seconds: int = CPU_SECONDS,
        memory: int = MEMORY_BYTES,
    ) -> None:
        self._turn = asyncio.Semaphore(children)
        self._idle: list[_Child] = []
        self._seconds = seconds
        self._cpu_seconds = cpu_seconds
        self._memory = memory

    async def parse(self, path: Path, filename: str) -> str:
        """The text of a file. Raises Unreadable, with the reason in words."""
        request = {"path": str(path), "filename": filename, "cpu": self._cpu_seconds}
        async with self._turn:
            for _ in range(_TRIES):
                with contextlib.suppress(_Died):  # perhaps not this file's fault: a fresh child decides
                    return await self._ask(request)
        raise Unreadable("invalid_file", "Reading this file brought the reader down; it may be damaged.")

    async def close(self) -> None:
        """Ends the children."""
        while self._idle:
            await self._idle.pop().end()

    async def _ask(self, request: dict[str, object]) -> str:
        child = self._idle.pop() if self._idle else await _Child.start(self._memory)
        fit = False
        try:
            async with asyncio.timeout(self._seconds):
                text = await child.ask(request)
            fit = True
            return text
        except Unreadable:
            fit = not child.is_slow
            raise
        except TimeoutError:
            raise _too_slow(self._seconds) from None
        finally:
            if fit:
                self._idle.append(child)
            else:
                await child.end()


class _Died(Exception):
    """The child ended without an answer."""


class _Child:
    """One process of `parse_child`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.is_slow = False

    @classmethod
    async def start(cls, memory: int) -> "_Child":
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "backtalk.retrieval.parse_child", str(memory)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=_environ(),
                start_new_session=True,  # Ctrl-C is for the server, which ends its children itself
            )
        )

    async def ask(self, request: dict[str, object]) -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101  # both are pipes
        try:
            stdin.write(msgspec.json.encode(request) + b"\n")
            await stdin.drain()
            reply = msgspec.json.decode(await stdout.readuntil(b"\n"))
            if "code" in reply:
                raise Unreadable(reply["code"], reply["message"])
            return (await stdout.readexactly(reply["length"])).decode()
        except (OSError, asyncio.IncompleteReadError):
            if await self._process.wait() == -getattr(signal, "SIGXCPU", 0):
                self.is_slow = True
                raise _too_slow(request["cpu"]) from None
            raise _Died from None

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()


def _too_slow(seconds: object) -> Unreadable:
    return Unreadable("invalid_file", f"Reading this file takes more than {seconds:g} seconds; split or simplify it.")


def _environ() -> dict[str, str]:
    """The little that Python needs: keys and passwords are none of a parser's business."""
    kept = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SYSTEMROOT", "LANG", "LC_ALL", "TMPDIR", "TEMP")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONUTF8": "1"}
