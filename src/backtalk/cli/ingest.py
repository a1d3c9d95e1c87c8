"""`backtalk ingest`: files and folders into a vector store. Run again, it takes up only what is new or has changed."""

import asyncio
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from backtalk.cli.backend import Backend, Entry, Unreachable, find_store
from backtalk.cli.chat import Key, Url
from backtalk.cli.common import fail
from backtalk.cli.connect import connect
from backtalk.core.errors import BacktalkError

_AT_ONCE = 8
_LONGEST_VALUE = 512
_FIRST_LOOK = 0.05
_SLOWEST_LOOK = 1.0
Tell = Callable[[], None]


def ingest(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Files, and folders with all that is in them.")],
    store: Annotated[str, typer.Option(help="Name of the vector store; made when there is none.")],
    url: Url = None,
    key: Key = None,
) -> None:
    """Put files into a vector store. Hidden files are left out; run it again to take up what has changed.

    With no server running, it works in this process on the same database.
    """
    work = Ingest()
    files = list(work.gather(paths))
    if not files and not work.failures:
        fail("there are no files there. Hidden ones are left out.")
    try:
        with _progress(work, len(files)) as tell:
            asyncio.run(_run(work, files, store, url, key, tell))
    except KeyboardInterrupt:
        fail(f"stopped. {work.summary(store)}. The same command goes on from here.", 130)
    except BacktalkError as error:
        done = f" {work.summary(store)}. The same command goes on from here." if work.counts else ""
        fail(error.message + done)
    typer.echo(work.summary(store))
    for path, reason in work.failures:
        typer.echo(f"  {path}: {reason}", err=True)
    if work.failures:
        raise typer.Exit(1)


async def _run(work: "Ingest", files: Sequence[Path], store: str, url: str | None, key: str | None, tell: Tell) -> None:
    async with connect(url, key) as backend:
        store_id = await find_store(backend, store) or await backend.create_store(store)
        try:
            await work.run(backend, store_id, files, tell)
        except* BacktalkError as group:
            raise group.exceptions[0] from None


class Ingest:
    """One run of the command: what it found, and how it went."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[tuple[str, str]] = []

    def summary(self, store: str) -> str:
        parts = [f"{self.counts[what]} {what}" for what in ("added", "changed", "unchanged")]
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"{store}: {', '.join(parts)}{failed}"

    def gather(self, paths: Sequence[Path]) -> Iterator[Path]:
        """Every file once, in a steady order. What cannot be read is a failure."""
        seen = set()
        for path in (found for given in paths for found in self._within(given)):
            whole = path.resolve()
            if whole not in seen:
                seen.add(whole)
                yield path

    def _within(self, path: Path) -> Iterator[Path]:
        if path.is_file():
            yield path
        elif not path.is_dir():
            self._fail(path, "there is no such file.")
        else:
            for folder, folders, names in os.walk(path, onerror=self._unreadable):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                found = (Path(folder, name) for name in sorted(names) if not name.startswith("."))
                yield from (file for file in found if file.is_file())

    def _unreadable(self, error: OSError) -> None:
        self._fail(Path(error.filename), error.strerror or str(error))

    def _fail(self, path: Path, reason: str) -> None:
        self.failures.append((_unicode(path), reason))

    async def run(self, backend: Backend, store_id: str, files: Sequence[Path], tell: Tell) -> None:
        """Brings the store up to date with the files. Raises Unreachable when the server goes away."""
        known: dict[str, list[Entry]] = {}
        async for entry in backend.entries(store_id):
            known.setdefault(str(entry.attributes.get("path")), []).append(entry)
        waiting = iter(files)

        async def worker() -> None:
            for path in waiting:
                await self._take(backend, store_id, path, known.get(_key(path), []))
                tell()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(_AT_ONCE):
                tasks.create_task(worker())

    async def _take(self, backend: Backend, store_id: str, path: Path, entries: Sequence[Entry]) -> None:
        try:
            self.counts[await _bring(backend, store_id, path, entries)] += 1
        except Unreachable:
            raise
        except BacktalkError as error:
            self._fail(path, error.message)
        except OSError as error:
            self._fail(path, error.strerror or str(error))


async def _bring(backend: Backend, store_id: str, path: Path, entries: Sequence[Entry]) -> str:
    """Sees to it that the store holds this file as it is now, and no older one. Returns what was to be done.

    The old one goes when the new one can be found, so a run that is cut off, or a file that broke, loses nothing.
    """
    digest = await asyncio.to_thread(_digest, path)
    alive = [entry for entry in entries if entry.status in ("completed", "in_progress")]
    same = next((entry for entry in alive if entry.attributes.get("sha256") == digest), None)
    file_id = same.file_id if same else await _put(backend, store_id, path, digest)
    settled = await _settled(backend, store_id, file_id)
    if settled.status != "completed":
        await backend.delete(file_id)
        raise BacktalkError(settled.reason or f"the server gave it up ({settled.status}).")
    for entry in entries:
        if entry.file_id != file_id:
            await backend.delete(entry.file_id)
    if same:
        return "unchanged" if same.status == "completed" else "added"
    return "changed" if alive else "added"


async def _put(backend: Backend, store_id: str, path: Path, digest: str) -> str:
    file_id = await backend.upload(path)
    try:
        await backend.attach(store_id, file_id, {"path": _key(path), "sha256": digest})
    except BacktalkError:
        await backend.delete(file_id)
        raise
    return file_id


async def _settled(backend: Backend, store_id: str, file_id: str) -> Entry:
    """The file, once it can be found or has failed."""
    wait = _FIRST_LOOK
    while (entry := await backend.entry(store_id, file_id)).status == "in_progress":
        await asyncio.sleep(wait)
        wait = min(wait * 1.5, _SLOWEST_LOOK)
    return entry


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _key(path: Path) -> str:
    """What a file is known by in the store: its full path, as far as an attribute's value can hold it."""
    return _unicode(path.resolve())[-_LONGEST_VALUE:]


def _unicode(path: Path) -> str:
    return path.as_posix().encode("utf-8", "replace").decode()


@contextmanager
def _progress(work: Ingest, total: int) -> Iterator[Tell]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415  # lazy: heavy
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("ingesting", total=total)

        def tell() -> None:
            counts = ", ".join(f"{number} {what}" for what, number in work.counts.items())
            failed = f", {len(work.failures)} failed" if work.failures else ""
            bar.update(task, advance=1, description=counts + failed or "ingesting")

        yield tell
