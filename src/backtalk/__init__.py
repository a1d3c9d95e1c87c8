"""Backtalk: the backend that talks back.

The public names are resolved on first use (PEP 562), so that `import backtalk` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Backtalk", "Caller", "Settings", "__version__", "caller", "mount"]

if TYPE_CHECKING:
    from backtalk.app import Backtalk, mount
    from backtalk.core.settings import Settings
    from backtalk.domain.caller import Caller
    from backtalk.http.caller import caller

_HOMES = {
    "Backtalk": "backtalk.app",
    "Caller": "backtalk.domain.caller",
    "Settings": "backtalk.core.settings",
    "caller": "backtalk.http.caller",
    "mount": "backtalk.app",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'backtalk' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
