"""`backtalk doctor`: looks at everything that Backtalk stands on, and says what to do about it."""

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import typer
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError

from backtalk.access.service import Access
from backtalk.cli.common import opened, read_settings, see_working_folder, shown
from backtalk.core.errors import BacktalkError, UpstreamError
from backtalk.core.settings import Settings
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.discovery import on_loopback
from backtalk.models.listing import fetch
from backtalk.models.registry import load
from backtalk.search.registry import embedder
from backtalk.storage import Storage
from backtalk.storage.migrate import current, head

OK, WARNING, PROBLEM = "ok", "warning", "problem"
_COLOURS = {OK: "green", WARNING: "yellow", PROBLEM: "red"}
_LITTLE = 2**30
_TOO_LITTLE = 100 * 2**20
_SYNCS = 20
_PATIENCE = 5.0
_FORWARDING = ("FORWARDED_ALLOW_IPS",)
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy")


class Finding(NamedTuple):
    state: str
    what: str
    says: str


def doctor() -> None:
    """Check model, database, embedder, disk and access. Exit code 1 when something does not work."""
    settings = read_settings()
    see_working_folder()
    if asyncio.run(_examine(settings)):
        raise typer.Exit(1)


async def _examine(settings: Settings) -> bool:
    """Shows every finding as it comes. Tells whether there is a problem."""
    problem = False
    async for state, what, says in _findings(settings):
        problem |= state == PROBLEM
        typer.echo(f"{typer.style(f'{state:<8}', fg=_COLOURS[state])} {what:<9} {says}")
    return problem


async def _findings(settings: Settings) -> AsyncIterator[Finding]:
    async for finding in _models(settings):
        yield finding
    async for finding in _database(settings):
        yield finding
    yield await asyncio.to_thread(_embedder)
    for finding in await asyncio.to_thread(lambda: [*_home(settings.home)]):
        yield finding
    for finding in _proxies():
        yield finding


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _models(settings: Settings) -> AsyncIterator[Finding]:
    from backtalk.app import upstreams_of  # noqa: PLC0415  # lazy: the whole application

    egress = Egress(connect_timeout=_PATIENCE, idle_timeout=_PATIENCE)
    try:
        upstreams = upstreams_of(settings)
        if settings.discover and not upstreams:
            upstreams = await on_loopback(egress)
        configured = {entry.name for entry in settings.upstreams} | {"upstream"}
        names: set[str] = set()
        for upstream in upstreams:
            finding, listed = await _upstream(upstream, egress, upstream.name in configured)
            names |= listed
            yield finding
    finally:
        await egress.close()
    for target in settings.models:
        yield await asyncio.to_thread(_own_model, target)
    if not upstreams and not settings.models:
        yield Finding(
            WARNING,
            "model",
            "none is connected: the built-in reader quotes files. Set BACKTALK_UPSTREAM or OPENAI_API_KEY, or run Ollama.",
        )
    named = {
        *settings.model,
        *(one for ids in settings.aliases.values() for one in ([ids] if isinstance(ids, str) else ids)),
    }
    for name in sorted(named - names - settings.aliases.keys()) if names and not settings.models else ():
        yield Finding(WARNING, "model", f"no server lists '{name}' (BACKTALK_MODEL or an alias): is its name right?")


async def _upstream(upstream: Upstream, egress: Egress, configured: bool) -> tuple[Finding, set[str]]:
    where = f"{upstream.name} ({upstream.url})"
    listed = set(upstream.models)
    try:
        listed |= set(await fetch(upstream, egress, _PATIENCE))
    except (UpstreamError, TimeoutError) as error:
        if not listed:
            why = str(error) or f"no answer in {_PATIENCE:g} s."
            says = f"{where} does not list its models: {why} Check its URL and its key."
            return Finding(PROBLEM if configured else WARNING, "model", says), set()
    names = listed | {f"{upstream.name}/{name}" for name in listed}
    return Finding(OK, "model", f"{where} answers: {len(listed)} models"), names


def _own_model(target: str) -> Finding:
    try:
        load(target)
    except Exception as error:
        return Finding(PROBLEM, "model", f"{target} cannot be loaded: {error}. Correct BACKTALK_MODELS.")
    return Finding(OK, "model", f"{target} is loaded")


# ── database and embedder ────────────────────────────────────────────────────────────────────────────────────────────


async def _database(settings: Settings) -> AsyncIterator[Finding]:
    where = shown(settings.database_url)
    if _is_missing(settings.database_url):
        yield Finding(OK, "database", f"{where} does not exist yet: the first `backtalk serve` makes it")
        yield _access(settings, has_keys=False)
        return
    try:
        async with opened(settings.database_url) as storage:
            revision = await storage.read(current)
            if revision != head():
                says = f"{where} is at {revision or 'nothing'}, not {head()}: `backtalk db upgrade`, or just serve"
                yield Finding(WARNING, "database", says)
                return
            taken = await _write_and_read(storage)
            yield Finding(OK, "database", f"{where} is up to date ({revision}), written and read in {taken:.1f} ms")
            yield _access(settings, has_keys=await Access(storage).has_keys())
    except (BacktalkError, DBAPIError, ValueError, OSError) as error:
        why = str(error.orig if isinstance(error, DBAPIError) else error).splitlines()[0]
        yield Finding(PROBLEM, "database", f"{where} cannot be used: {why} Correct BACKTALK_DATABASE, or start it.")


def _is_missing(url: str) -> bool:
    """Whether it is a SQLite file that is not there: to look is no reason to make it."""
    try:
        parsed = make_url(url)
    except Exception:
        return False  # opening it tells what is wrong
    return parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists()


async def _write_and_read(storage: Storage) -> float:
    """Milliseconds of a transaction that writes what is there already, and of reading it."""
    started = time.perf_counter()
    await storage.write(_touch)
    await storage.read(current)
    return (time.perf_counter() - started) * 1000


def _touch(connection: Connection) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = version_num"))


def _embedder() -> Finding:
    try:
        found = embedder()
        started = time.perf_counter()
        (vector,) = found.embed(["Does it work?"])
    except Exception as error:
        return Finding(PROBLEM, "embedder", f"cannot be loaded: {error}. Install Backtalk anew: pip install backtalk")
    taken = (time.perf_counter() - started) * 1000
    return Finding(OK, "embedder", f"{found.name}, {len(vector)} dimensions, loaded in {taken:.0f} ms")


# ── the machine ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _home(home: Path) -> Iterator[Finding]:
    if not home.exists():
        yield Finding(OK, "home", f"{home} does not exist yet: the first `backtalk serve` makes it")
        home = next((parent for parent in home.absolute().parents if parent.exists()), Path("/"))
    else:
        yield _permissions(home)
    yield _disk(home)
    yield _fsync(home)


def _permissions(home: Path) -> Finding:
    if not (home.is_dir() and os.access(home, os.R_OK | os.W_OK | os.X_OK)):
        says = f"{home} is no folder that can be written: correct its permissions, or name another in BACKTALK_HOME"
        return Finding(PROBLEM, "home", says)
    if os.name == "posix" and home.stat().st_mode & 0o022:
        return Finding(PROBLEM, "home", f"{home} can be written by other users of this machine: chmod 700 '{home}'")
    if os.name == "posix" and home.stat().st_mode & 0o055:
        return Finding(WARNING, "home", f"{home} can be read by other users of this machine: chmod 700 '{home}'")
    return Finding(OK, "home", f"{home} is yours alone")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    state = PROBLEM if free < _TOO_LITTLE else WARNING if free < _LITTLE else OK
    advice = "" if state == OK else ": make room, or move BACKTALK_HOME"
    return Finding(state, "disk", f"{free / 2**30:.1f} GiB are free{advice}")


def _fsync(folder: Path) -> Finding:
    """How long a commit must wait for this disk."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            taken = [_synced(file.fileno()) for _ in range(_SYNCS)]
    except OSError as error:
        return Finding(PROBLEM, "fsync", f"{folder} cannot be written: {error.strerror}. Name another BACKTALK_HOME.")
    return Finding(OK, "fsync", f"{statistics.median(taken):.2f} ms: what one commit costs on this disk at least")


def _synced(descriptor: int) -> float:
    os.write(descriptor, bytes(4096))
    started = time.perf_counter()
    os.fsync(descriptor)
    return (time.perf_counter() - started) * 1000


def _access(settings: Settings, *, has_keys: bool) -> Finding:
    if has_keys:
        return Finding(OK, "access", "there are API keys: every call needs one")
    behind = [name for name in _FORWARDING if os.environ.get(name)]
    if behind or settings.hosts:
        why = f"{behind[0]} is set" if behind else f"BACKTALK_HOSTS names {settings.hosts[0]}"
        says = f"{why}, but there is no API key. A proxy must not serve strangers: `backtalk keys create` first"
        return Finding(WARNING, "access", says)
    says = "no API key yet: programs on this machine are served without. Behind a proxy: `backtalk keys create` first"
    return Finding(OK, "access", says)


def _proxies() -> Iterator[Finding]:
    named = next((name for name in _PROXIES if os.environ.get(name)), None)
    if named:
        says = (
            f"{named} is set, but model servers are called directly. If that fails, run a gateway as BACKTALK_UPSTREAM"
        )
        yield Finding(WARNING, "proxy", says)
