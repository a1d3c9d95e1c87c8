"""Heavy imports wait until they are needed."""

import subprocess
import sys

HEAVY = (
    "pydantic_ai",
    "numpy",
    "tokenizers",
    "pypdfium2",
    "aiohttp",
    "alembic",
    "rich",
    "openai",
    "psycopg",
    "pymysql",
    "typer",
)


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_of_it() -> None:
    loaded = modules_after("import backtalk")
    assert "backtalk" in loaded
    assert [name for name in loaded if name.startswith("backtalk.")] == []
    assert not loaded & {"fastapi", "sqlalchemy", "pydantic", *HEAVY}


def test_importing_the_application_loads_nothing_heavy() -> None:
    loaded = modules_after("from backtalk import Backtalk")
    assert "fastapi" in loaded
    assert loaded & set(HEAVY) == set()


def test_making_an_application_loads_nothing_heavy() -> None:
    statement = "import os, tempfile\nos.environ['BACKTALK_HOME'] = tempfile.mkdtemp()\nfrom backtalk import Backtalk\nBacktalk()"
    assert modules_after(statement) & set(HEAVY) == set()
