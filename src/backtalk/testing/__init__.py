"""Shipped for tests, ours and yours: a scripted model, a real server to test against, suites that an adapter must pass.

Names are resolved on first use, so that serving `ScriptedModel` needs neither pytest nor the `openai` package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["ModelSuite", "ScriptedModel", "Server", "async_client", "client", "serve"]

if TYPE_CHECKING:
    from backtalk.testing.scripted import ScriptedModel
    from backtalk.testing.server import Server, async_client, client, serve
    from backtalk.testing.suites import ModelSuite

_HOMES = {
    "ModelSuite": "backtalk.testing.suites",
    "ScriptedModel": "backtalk.testing.scripted",
    "Server": "backtalk.testing.server",
    "async_client": "backtalk.testing.server",
    "client": "backtalk.testing.server",
    "serve": "backtalk.testing.server",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'backtalk.testing' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
