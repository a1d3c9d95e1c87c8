"""The `backtalk` command."""

from backtalk.cli.commands import main

__all__ = ["main"]
