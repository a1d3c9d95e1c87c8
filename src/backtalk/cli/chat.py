"""`backtalk chat`: a talk in the terminal, streamed."""

import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Annotated, Any, Protocol

import typer
from anyio.from_thread import BlockingPortal, start_blocking_portal

from backtalk import __version__
from backtalk.cli.backend import Backend, find_store
from backtalk.cli.common import fail
from backtalk.cli.connect import USUAL, connect
from backtalk.core.errors import BacktalkError

Url = Annotated[
    str | None, typer.Option(envvar="BACKTALK_URL", help=f"A running server. Default: {USUAL}, if one is there.")
]
Key = Annotated[str | None, typer.Option(envvar="BACKTALK_KEY", help="The server's API key, when it wants one.")]

_LEAVE = ("/exit", "/quit")


def chat(
    url: Url = None,
    key: Key = None,
    model: Annotated[str | None, typer.Option(help="Who answers. Default: the server's choice.")] = None,
    store: Annotated[str | None, typer.Option(help="Name of the vector store to look things up in.")] = None,
    conversation: Annotated[str | None, typer.Option(metavar="ID", help="Go on with this conversation.")] = None,
) -> None:
    """Talk with the model. Ctrl-C stops an answer, Ctrl-D or /exit leaves.

    With no server running, it works in this process on the same database. With a pipe, each line is a question.
    """
    screen: Screen = Terminal() if sys.stdin.isatty() and sys.stdout.isatty() else Plain()
    try:
        with _connected(url, key) as (portal, backend):
            fields = portal.call(_prepare, backend, model, store, conversation)
            screen.greet(backend.name, store)
            all_well = _talk(portal, backend, fields, screen)
            screen.leave(fields["conversation"])
    except BacktalkError as error:
        fail(error.message)
    if not all_well:
        raise typer.Exit(1)


@contextmanager
def _connected(url: str | None, key: str | None) -> Iterator[tuple[BlockingPortal, Backend]]:
    """The event loop runs in a thread of its own, so that it goes on while this one waits for the keyboard."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(connect(url, key)) as backend:
        yield portal, backend


async def _prepare(backend: Backend, model: str | None, store: str | None, conversation: str | None) -> dict[str, Any]:
    """The fields that all turns share."""
    fields: dict[str, Any] = {"model": model} if model else {}
    if store is not None:
        fields["tools"] = [{"type": "file_search", "vector_store_ids": [await _store_id(backend, store)]}]
    return {**fields, "conversation": await backend.open_conversation(conversation)}


async def _store_id(backend: Backend, name: str) -> str:
    found = await find_store(backend, name)
    if found is None:
        names = ", ".join(sorted({called or store_id async for store_id, called in backend.stores()}))
        known = f"There are: {names}." if names else f"Make it with `backtalk ingest PATH --store {name}`."
        raise BacktalkError(f"there is no store '{name}'. {known}")
    return found


def _talk(portal: BlockingPortal, backend: Backend, fields: dict[str, Any], screen: "Screen") -> bool:
    """Asks and answers until the user leaves. Tells whether every question was answered."""
    all_well = True
    while (question := screen.read()) is not None and question not in _LEAVE:
        if question:
            all_well &= _ask(portal, backend, {**fields, "input": question}, screen)
    return all_well


def _ask(portal: BlockingPortal, backend: Backend, body: dict[str, Any], screen: "Screen") -> bool:
    ended = threading.Event()

    async def answer() -> None:
        try:
            await _answer(backend, body, screen)
        finally:
            screen.end()
            ended.set()

    future = portal.start_task_soon(answer)
    try:
        future.result()
    except KeyboardInterrupt:
        future.cancel()
        ended.wait(5)
        screen.note("stopped")
    except BacktalkError as error:
        typer.echo(f"backtalk: {error.message}", err=True)
        return False
    return True


async def _answer(backend: Backend, body: dict[str, Any], screen: "Screen") -> None:
    sources: dict[str, None] = {}
    async with aclosing(backend.events(body)) as events:
        async for event in events:
            kind = event["type"]
            if kind in ("response.output_text.delta", "response.refusal.delta"):
                screen.add(event["delta"])
            elif kind == "response.output_text.annotation.added":
                sources[event["annotation"].get("filename", "")] = None
            elif kind in ("response.failed", "error"):
                raise BacktalkError(_why_failed(event))
            elif kind == "response.incomplete":
                screen.end()
                reason = (event["response"].get("incomplete_details") or {}).get("reason")
                screen.note(f"cut off: {reason}" if reason else "cut off")
    screen.end()
    if sources := {name: None for name in sources if name}:
        screen.note(f"Sources: {', '.join(sources)}")


def _why_failed(event: dict[str, Any]) -> str:
    error = event.get("response", {}).get("error") or event.get("error") or event
    return str(error.get("message") or "the answer failed.")


class Screen(Protocol):
    """Where the talk is shown. `add`, `end` and `note` are called from the loop's thread."""

    def greet(self, where: str, store: str | None) -> None: ...

    def read(self) -> str | None:
        """The next question; None when the user leaves."""
        ...

    def add(self, text: str) -> None:
        """More of the answer."""
        ...

    def end(self) -> None:
        """The answer is over, at least for now. May be called again."""
        ...

    def note(self, text: str) -> None: ...

    def leave(self, conversation: str) -> None: ...


class Plain:
    """For pipes: text and nothing else."""

    def __init__(self) -> None:
        self._open = False
        for stream in (sys.stdin, sys.stdout):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # they are text streams of this process

    def greet(self, where: str, store: str | None) -> None:
        pass

    def read(self) -> str | None:
        line = sys.stdin.readline()
        return line.strip() if line else None

    def add(self, text: str) -> None:
        self._open = True
        sys.stdout.write(text)
        sys.stdout.flush()

    def end(self) -> None:
        if self._open:
            self.add("\n")
            self._open = False

    def note(self, text: str) -> None:
        sys.stdout.write(f"[{text}]\n")
        sys.stdout.flush()

    def leave(self, conversation: str) -> None:
        pass


class Terminal:
    """For people: Markdown, set block by block. Only the block that is being written is drawn anew."""

    def __init__(self) -> None:
        import readline  # noqa: F401, PLC0415  # lazy: gives the prompt a history; not on every platform

        from rich.console import Console  # noqa: PLC0415  # lazy: heavy
        from rich.live import Live  # noqa: PLC0415
        from rich.markdown import Markdown  # noqa: PLC0415

        self._console = Console()
        self._markdown = Markdown
        self._new_live = partial(Live, console=self._console, refresh_per_second=12, transient=True)
        self._live: Live | None = None
        self._text = ""

    def greet(self, where: str, store: str | None) -> None:
        looking = f", looking things up in '{store}'" if store else ""
        self.note(f"Backtalk {__version__} on {where}{looking}. Ctrl-C stops an answer, Ctrl-D or /exit leaves.")

    def read(self) -> str | None:
        while True:
            try:
                return input("\n› ").strip()
            except EOFError:
                return None
            except KeyboardInterrupt:
                self._console.print()

    def add(self, text: str) -> None:
        if self._live is None:
            self._live = self._new_live()
            self._live.start()
        self._text += text
        whole, self._text = blocks(self._text)
        if whole:
            self._console.print(self._markdown(whole))
            self._console.print()
        self._live.update(self._markdown(self._text))

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._console.print(self._markdown(self._text))
            self._text = ""

    def note(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, highlight=False)

    def leave(self, conversation: str) -> None:
        self.note(f"Go on with: backtalk chat --conversation {conversation}")


def blocks(text: str) -> tuple[str, str]:
    """Markdown as far as its blocks are finished, and the rest. A blank line ends one, unless it is in a code fence."""
    at = text.rfind("\n\n")
    while at >= 0:
        fences = sum(line.lstrip().startswith(("```", "~~~")) for line in text[:at].splitlines())
        if fences % 2 == 0:
            return text[:at], text[at + 2 :]
        at = text.rfind("\n\n", 0, at)
    return "", text
