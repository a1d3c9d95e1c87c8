"""What a request was, once it is over; and log lines of it: for machines as JSON, for people plain.

Nothing here runs for each token. But for the id that a client gives its request, no header comes near a line, and no query
and no body ever does.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from starlette.types import Scope

from backtalk.http.paths import path_of

log = logging.getLogger("backtalk.access")

_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""What machines ask every few seconds: logged at debug level while all is well."""
_LONGEST = 200


class TurnFacts(msgspec.Struct, frozen=True):
    """What a turn tells of itself. A route that runs one puts a function that returns it into `scope["state"]["turn"]`.

    `first_token_at` is a time of `time.perf_counter()`.
    """

    model: str
    input_tokens: int
    output_tokens: int
    first_token_at: float | None = None
    cost_usd: float | None = None


class Exchange(msgspec.Struct, frozen=True):
    """A request that was answered or broken off. Times in seconds. `route` is the path's pattern, if one matched."""

    method: str
    path: str
    route: str | None
    status: int
    duration: float
    request_id: str | None = None
    client_request_id: str | None = None
    project: str | None = None
    turn: TurnFacts | None = None
    first_token: float | None = None


Observer: TypeAlias = Callable[[Exchange], None]


def exchange_of(scope: Scope, status: int, started: float) -> Exchange:
    """The request of `scope`, which began at the `time.perf_counter()` of `started` and ends now."""
    state = scope.get("state", {})
    turn = state["turn"]() if "turn" in state else None
    caller = state.get("caller")
    return Exchange(
        method=scope["method"],
        path=path_of(scope),
        route=getattr(scope.get("route"), "path", None),
        status=status,
        duration=time.perf_counter() - started,
        request_id=state.get("request_id"),
        client_request_id=state.get("client_request_id"),
        project=caller.project if caller else None,
        turn=turn,
        first_token=turn.first_token_at - started if turn and turn.first_token_at else None,
    )


def log_exchange(exchange: Exchange) -> None:
    """One line for a request, on the logger `backtalk.access`."""
    level = logging.DEBUG if exchange.path in _PROBES and exchange.status < 400 else logging.INFO
    if log.isEnabledFor(level):
        path = _printable(exchange.path)
        fields = {"fields": _fields(exchange, path)}
        log.log(level, "%s %s %s", exchange.method, path, exchange.status, extra=fields)


def _fields(exchange: Exchange, path: str) -> dict[str, Any]:
    turn = exchange.turn
    fields = {
        "request_id": exchange.request_id,
        "method": exchange.method,
        "path": path,
        "status": exchange.status,
        "duration_ms": _ms(exchange.duration),
        "project": exchange.project,
    }
    if exchange.client_request_id:
        fields["client_request_id"] = exchange.client_request_id
    if turn:
        fields |= {
            "model": _printable(turn.model),
            "input_tokens": turn.input_tokens,
            "output_tokens": turn.output_tokens,
            "first_token_ms": None if exchange.first_token is None else _ms(exchange.first_token),
        }
        if turn.cost_usd is not None:
            fields["cost_usd"] = turn.cost_usd
    return fields


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _printable(text: str) -> str:
    """`text` with nothing in it that could forge a line or colour a terminal, and not too long."""
    text = text[:_LONGEST]
    return text if text.isprintable() else ascii(text)[1:-1]


class JSONLines(logging.Formatter):
    """One JSON object for each record."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PrettyLines(logging.Formatter):
    """For people: the time, what happened, and what is known of it."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = getattr(record, "fields", None)
        if fields is not None:
            return f"{at} {_sentence(fields)}"
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{at} {record.levelname.lower()} {record.name}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _sentence(fields: dict[str, Any]) -> str:
    words = [f"{fields['method']} {fields['path']} {fields['status']} in {fields['duration_ms']:.0f} ms"]
    if "model" in fields:
        words.append(f"{fields['model']}, {fields['input_tokens']} + {fields['output_tokens']} tokens")
    if fields.get("first_token_ms") is not None:
        words.append(f"first token after {fields['first_token_ms']:.0f} ms")
    words += [fields[name] for name in ("project", "request_id") if fields[name]]
    return " · ".join(words)


def logging_config(style: str, level: str, *, access: bool) -> dict[str, Any]:
    """A configuration for `logging.config.dictConfig`: our lines at `level`, what others log from warnings up.

    `style` is "json", "pretty" or "auto": pretty on a terminal. `access` says whether requests are logged.
    """
    pretty = style == "pretty" or (style == "auto" and sys.stderr.isatty())
    others = "DEBUG" if level == "debug" else "ERROR" if level == "error" else "WARNING"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"default": {"()": PrettyLines if pretty else JSONLines}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "default"}},
        "root": {"level": others, "handlers": ["stderr"]},
        "loggers": {"backtalk": {"level": level.upper()}, log.name: {"level": "NOTSET" if access else "CRITICAL"}},
    }
