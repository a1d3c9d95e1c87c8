"""`backtalk keys`: API keys."""

from datetime import datetime
from typing import Annotated

import typer

from backtalk.access.service import Access
from backtalk.access.store import ApiKey
from backtalk.cli.common import on_database
from backtalk.core.clock import now
from backtalk.domain.caller import DEFAULT_PROJECT

app = typer.Typer(
    help="API keys. The first one ends local mode: from then on every call needs a key.", no_args_is_help=True
)
Project = Annotated[str, typer.Option(help="The project that the key opens: its own files, stores, conversations.")]


@app.command()
def create(
    project: Project = DEFAULT_PROJECT,
    name: Annotated[str, typer.Option(help="A name to tell it by.")] = "",
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires. Default: never.")] = None,
) -> None:
    """Make a key and show it, this once."""
    expires_in = None if days is None else days * 86_400
    record, secret = on_database(lambda storage: Access(storage).create(project, name, expires_in=expires_in))
    typer.echo(f"{record.id} opens the project '{project}'. Keep the key: it is not shown again.", err=True)
    typer.echo(secret)


@app.command("list")
def listing(project: Project = DEFAULT_PROJECT) -> None:
    """List the keys of a project."""
    keys = on_database(lambda storage: Access(storage).list(project))
    if not keys:
        typer.echo(f"The project '{project}' has no keys. Make one with `backtalk keys create`.", err=True)
        return
    rows = [("ID", "KEY", "CREATED", "LAST USED", "STATE", "NAME"), *map(_row, keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `backtalk keys list` shows it.")],
    project: Project = DEFAULT_PROJECT,
) -> None:
    """End a key: within 5 seconds everywhere."""
    on_database(lambda storage: Access(storage).revoke(project, key_id))
    typer.echo(f"{key_id} is revoked.")


def _row(key: ApiKey) -> tuple[str, ...]:
    return (key.id, f"{key.prefix}…", _day(key.created_at), _day(key.last_used_at), _state(key), key.name)


def _day(at: int | None) -> str:
    return "never" if at is None else datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return "in force"
    return "expired" if key.expires_at <= now() else f"until {_day(key.expires_at)}"
