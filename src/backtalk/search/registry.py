"""Embedders by name, loaded on first use."""

from collections.abc import Callable
from importlib import import_module

from backtalk.search.base import Embedder

DEFAULT = "wordllama"
EMBEDDERS = {DEFAULT: "backtalk.search.wordllama:WordLlama"}


def embedder(name: str = DEFAULT) -> Embedder:
    """The embedder of that name. Raises ValueError for a name that nobody has."""
    target = EMBEDDERS.get(name)
    if target is None:
        raise ValueError(f"Unknown embedder '{name}'. Known: {', '.join(EMBEDDERS)}.")
    module, _, attribute = target.partition(":")
    make: Callable[[], Embedder] = getattr(import_module(module), attribute)
    return make()
