"""The room with no upstream, and with one."""

from collections.abc import Iterator

import openai
import pytest
from serving_parts import UpstreamHandler, application, upstream_server

from backtalk.models.base import Upstream
from backtalk.testing import client, serve


@pytest.fixture(scope="package")
def upstream() -> Iterator[str]:
    with upstream_server() as url:
        yield url


@pytest.fixture(scope="package")
def alone() -> Iterator[openai.OpenAI]:
    with serve(application()) as url, client(url) as sdk:
        yield sdk


@pytest.fixture(scope="package")
def behind(upstream: str) -> Iterator[openai.OpenAI]:
    with serve(application(Upstream("far", upstream, "sk-far"))) as url, client(url) as sdk:
        yield sdk


@pytest.fixture(autouse=True)
def _forget() -> None:
    UpstreamHandler.seen.clear()
