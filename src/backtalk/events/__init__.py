"""The log: every event of a response, durable before anyone sees it, with the lease of the run that writes it."""

from backtalk.events.channel import Channel, Tail
from backtalk.events.log import Fenced, Log, Writer, batches, ephemeral

__all__ = ["Channel", "Fenced", "Log", "Tail", "Writer", "batches", "ephemeral"]
