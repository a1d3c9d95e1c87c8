"""Which database a URL means."""

from pathlib import Path

from sqlalchemy import create_engine, make_url
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from backtalk.core.folders import make_folder
from backtalk.storage.base import Storage
from backtalk.storage.sqlite import SQLiteStorage

SERVER_THREADS = 10
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_EXTRAS = {"psycopg": "postgres", "pymysql": "mysql"}


def open_storage(url: str) -> Storage:
    """The database at `url`. SQLite's folder is made when it is missing. Raises ValueError with what to do next."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError("This is no database URL, such as sqlite:///path or postgresql://…") from error
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "backtalk.sqlite")
        make_folder(path.parent)
        return SQLiteStorage(str(path))
    return Storage(_server_engine(parsed), SERVER_THREADS)


def _server_engine(url: URL) -> Engine:
    driver = _DRIVERS.get(url.drivername, url.drivername)
    try:
        return create_engine(
            url.set(drivername=driver),
            pool_size=SERVER_THREADS,
            max_overflow=2,
            pool_pre_ping=True,
            hide_parameters=True,
            isolation_level="READ COMMITTED",
        )
    except NoSuchModuleError as error:
        raise ValueError(f"Unknown database '{url.drivername}': use sqlite, postgresql or mysql.") from error
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "", "postgres")
        raise ValueError(f'A driver is missing: pip install "backtalk[{extra}]"') from error
