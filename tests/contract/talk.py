"""A server in this process around a model that is told what to say, for what an obedient one never does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai

from backtalk import Backtalk
from backtalk.core.settings import Settings
from backtalk.testing import client, serve


class Talk:
    """An SDK client and plain HTTP for one server."""

    def __init__(self, url: str) -> None:
        self.sdk: openai.OpenAI = client(url, max_retries=0)
        self.http = httpx2.Client(base_url=f"{url}/v1", timeout=30)

    def post(self, path: str = "/responses", **body: Any) -> httpx2.Response:
        return self.http.post(path, json=body)


@contextmanager
def talking(home: Path, *models: Any, **settings: Any) -> Iterator[Talk]:
    """Serves these models; the first one answers when a request names none."""
    app = Backtalk(Settings(home=home, discover=False, **settings), models=list(models))
    with serve(app) as url:
        talk = Talk(url)
        with talk.http:
            yield talk
