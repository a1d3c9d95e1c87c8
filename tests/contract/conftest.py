"""One real server for all contract tests, with ScriptedModel, and real SDK clients."""

from collections.abc import Iterator

import httpx2
import openai
import pytest
from wire import Wire

from backtalk.testing import Server, client


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "wire(*ids): the requirements that a test proves")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("contract")
    env = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted", "BACKTALK_DISCOVER": "0"}
    with Server(home, env) as running:
        yield running


@pytest.fixture(scope="session")
def sdk(server: Server) -> openai.OpenAI:
    return client(server.url, max_retries=0)


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx2.Client]:
    """Plain HTTP, for what an SDK would hide."""
    with httpx2.Client(base_url=server.url + "/v1", timeout=30) as plain:
        yield plain


@pytest.fixture(scope="session")
def wire(http: httpx2.Client) -> Wire:
    return Wire(http)
