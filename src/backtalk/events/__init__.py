"""The log: every event of a response, durable before anyone sees it, with the lease of the run that writes it."""

from backtalk.events.channel import Channel
from backtalk.events.log import Fenced, Log, Writer, ephemeral

__all__ = ["Channel", "Fenced", "Log", "Writer", "ephemeral"]
