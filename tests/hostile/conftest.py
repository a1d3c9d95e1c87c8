"""One server for all hostile requests of a module: it must be as healthy after the last as before the first."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from shape import things

from backtalk import Backtalk, Settings
from backtalk.testing import ScriptedModel, serve


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home: Path = tmp_path_factory.mktemp("hostile")
    app = Backtalk(Settings(home=home, discover=False, body_timeout=2), models=[ScriptedModel()])
    with serve(app) as url:
        yield url
        assert httpx2.get(f"{url}/healthz").status_code == 200
        answer = httpx2.post(f"{url}/v1/responses", json={"model": "scripted", "input": "Still there?"}, timeout=30)
        assert answer.json()["status"] == "completed"


@pytest.fixture(scope="module")
def http(server: str) -> Iterator[httpx2.Client]:
    """One client for many requests: to make one takes longer than to be refused."""
    with httpx2.Client(base_url=server, timeout=30) as client:
        yield client


@pytest.fixture
def on_each(tmp_path: Path, database: str) -> Iterator[str]:
    """A server on each kind of database, for what databases may stumble over."""
    app = Backtalk(Settings(home=tmp_path, database=database, discover=False), models=[ScriptedModel()])
    with serve(app) as url:
        yield url
        assert httpx2.get(f"{url}/healthz").status_code == 200


@pytest.fixture(scope="module")
def ids(server: str) -> dict[str, str]:
    """One of everything, by the name of its path parameter."""
    return things(server)
