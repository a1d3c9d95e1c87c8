"""Paths as the routes know them."""

from starlette.types import Scope


def path_of(scope: Scope) -> str:
    """The path as the routes know it, without the prefix that a mount or `--root-path` adds."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
