"""All commands and their options."""

import sys
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from backtalk import __version__
from backtalk.cli import backups, chat, config, db, doctor, ingest, keys, serve

app = typer.Typer(
    name="backtalk",
    help="The backend that talks back. Start with `backtalk serve`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("chat")(chat.chat)
app.command("ingest")(ingest.ingest)
app.command("doctor")(doctor.doctor)
app.command("backup")(backups.backup)
app.command("restore")(backups.restore)
app.add_typer(keys.app, name="keys")
app.add_typer(db.app, name="db")
app.add_typer(config.app, name="config")


def main() -> None:
    """The entry point. A mistake on the command line is told in one line."""
    try:
        code = app(prog_name="backtalk", standalone_mode=False)
    except TyperException as error:
        sys.exit(_tell(error))
    except Abort:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _tell(error: TyperException) -> int:
    context = getattr(error, "ctx", None)
    if context is not None and not sys.argv[1:]:
        typer.echo(context.get_help())
        return 0
    where = f" See `{context.command_path} --help`." if context is not None else ""
    typer.echo(f"backtalk: {error.format_message().rstrip('.')}.{where}", err=True)
    return error.exit_code


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
