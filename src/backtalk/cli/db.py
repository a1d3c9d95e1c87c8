"""`backtalk db`: the schema."""

import typer

from backtalk.cli.common import fail, on_database, read_settings, shown
from backtalk.storage import Storage
from backtalk.storage.migrate import current, head

app = typer.Typer(help="The database's schema.", no_args_is_help=True)


@app.command()
def upgrade() -> None:
    """Bring the database up to this version's schema. `serve` does so by itself."""
    typer.echo(f"{_where()}: at {on_database(_revision)}, up to date")


@app.command()
def status() -> None:
    """Show where the schema stands; exit code 1 when it is not up to date."""
    revision = on_database(_revision, migrate=False)
    if revision != head():
        fail(f"{_where()}: at {revision or 'nothing'}, this version needs {head()}. Run `backtalk db upgrade`.")
    typer.echo(f"{_where()}: at {revision}, up to date")


async def _revision(storage: Storage) -> str | None:
    return await storage.read(current)


def _where() -> str:
    return shown(read_settings().database_url)
