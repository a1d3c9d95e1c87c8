"""All commands and their options."""

from typing import Annotated

import typer

from backtalk import __version__
from backtalk.cli import db, keys, serve

app = typer.Typer(
    name="backtalk",
    help="The backend that talks back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.add_typer(keys.app, name="keys")
app.add_typer(db.app, name="db")


def main() -> None:
    """The entry point."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"backtalk {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
