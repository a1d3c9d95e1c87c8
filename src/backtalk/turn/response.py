"""The Response object: put together from what was settled when it opened and what came of it. No I/O."""

from collections.abc import Collection
from typing import Any

import msgspec

from backtalk.core.errors import BacktalkError, RateLimited, UpstreamError
from backtalk.domain.items import Item, present
from backtalk.domain.model import Usage


class State(msgspec.Struct, omit_defaults=True):
    """What changes about a response. `reason` is our own word on how it ended, outside OpenAI's closed enums.

    `service_tier` is the one that the model's server says it has used, `served_by` the model that answered where the one
    that was asked stands for others.
    """

    status: str = "in_progress"
    output: list[Item] = []
    usage: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    incomplete_details: dict[str, str] | None = None
    completed_at: int | None = None
    reason: str | None = None
    service_tier: str | None = None
    served_by: str | None = None
    cost_usd: float | None = None


TIERS = ("auto", "default", "flex", "scale", "priority", "fast")
"""The service tiers that the SDKs know."""
_NOT_SHOWN = ("id", "created_at", "include", "choices")
"""What of a head has a place of its own, or is for us."""


def asked_for(head: dict[str, Any], include: Collection[str] = ()) -> list[str]:
    """What to show besides: what the request that made the response asked for, and what this one does."""
    return [*head.get("include", ()), *include]


def assemble(head: dict[str, Any], state: State, include: Collection[str] = ()) -> dict[str, Any]:
    """The Response as it goes out. Every key is always there, in the same order."""
    response = {
        "id": head["id"],
        "object": "response",
        "created_at": head["created_at"],
        "completed_at": state.completed_at,
        "status": state.status,
        "error": state.error,
        "incomplete_details": state.incomplete_details,
        **{key: value for key, value in head.items() if key not in _NOT_SHOWN},
        "output": [present(item, include) for item in state.output],
        "usage": state.usage,
    }
    if state.service_tier:
        response["service_tier"] = state.service_tier
    ours = {"reason": state.reason, "model": state.served_by, "cost_usd": state.cost_usd}
    if told := {name: value for name, value in ours.items() if value is not None}:
        response["backtalk"] = told
    return response


def usage_object(usage: Usage) -> dict[str, Any]:
    """Usage as the wire has it."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def error_object(error: Exception) -> tuple[dict[str, str], str]:
    """A failed run's `error`, with a code of OpenAI's closed list, and our own reason."""
    if isinstance(error, UpstreamError):
        return {"code": "server_error", "message": error.message}, error.reason
    if isinstance(error, RateLimited):
        return {"code": "rate_limit_exceeded", "message": error.message}, "upstream_rate_limit"
    if isinstance(error, BacktalkError):
        code = "invalid_prompt" if error.status == 400 else "server_error"
        return {"code": code, "message": error.message}, error.code or "error"
    return {"code": "server_error", "message": "The server made a mistake and has logged it."}, "internal_error"
