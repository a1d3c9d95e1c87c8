"""An embedder that is held up until the test lets it go, and a server that counts its requests."""

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.types import ASGIApp, Receive, Scope, Send


class Held:
    """Embeds by hash. Waits before a text that begins with `held`, fails for one that has `poison` in it."""

    name = "test/held"
    dimension = 8

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.go = threading.Event()
        self.most = 0
        self._inside = 0

    def embed(self, texts: Sequence[str]) -> Any:
        self.calls.append(list(texts))
        self._inside += 1
        self.most = max(self.most, self._inside)
        if any(text.startswith("held") for text in texts):
            assert self.go.wait(30)
        self._inside -= 1
        if any("poison" in text for text in texts):
            raise ValueError("this text cannot be embedded")
        return np.array([self.vector(text) for text in texts])

    @staticmethod
    def vector(text: str) -> list[float]:
        raw = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint8) + 1.0
        return [float(value) for value in raw / np.linalg.norm(raw)]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def token_ends(self, text: str) -> list[int]:
        return [len(text)]

    @property
    def seen(self) -> set[str]:
        return {text for call in self.calls for text in call}


class Counted:
    """Counts an application's POSTs: those that have begun, and those that are over."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.begun = 0
        self.over = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        counts = scope["type"] == "http" and scope["method"] == "POST"
        self.begun += counts
        try:
            await self.app(scope, receive, send)
        finally:
            self.over += counts
