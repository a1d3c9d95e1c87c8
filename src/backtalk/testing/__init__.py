"""Shipped for tests, ours and yours: a scripted model, a real server to test against, suites that an adapter must pass,
a check of streams that any server sent, a proxy that breaks connections, crashes on purpose.

Names are resolved on first use, so that serving `ScriptedModel` needs neither pytest nor the `openai` package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "FaultProxy",
    "ModelSuite",
    "ScriptedModel",
    "Server",
    "TranscriptError",
    "async_client",
    "check_transcript",
    "client",
    "read_transcript",
    "serve",
]

if TYPE_CHECKING:
    from backtalk.testing.proxy import FaultProxy
    from backtalk.testing.scripted import ScriptedModel
    from backtalk.testing.server import Server, async_client, client, serve
    from backtalk.testing.suites import ModelSuite
    from backtalk.testing.transcript import TranscriptError, check_transcript, read_transcript

_HOMES = {
    "FaultProxy": "backtalk.testing.proxy",
    "ModelSuite": "backtalk.testing.suites",
    "ScriptedModel": "backtalk.testing.scripted",
    "Server": "backtalk.testing.server",
    "TranscriptError": "backtalk.testing.transcript",
    "async_client": "backtalk.testing.server",
    "check_transcript": "backtalk.testing.transcript",
    "client": "backtalk.testing.server",
    "read_transcript": "backtalk.testing.transcript",
    "serve": "backtalk.testing.server",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'backtalk.testing' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
