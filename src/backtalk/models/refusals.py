"""What a model server's error answer means to our client. No message of ours ever holds a key."""

import re
from hashlib import sha256
from typing import Any

import msgspec

from backtalk.core.clock import monotonic
from backtalk.core.errors import BacktalkError, FormatRefused, InvalidRequest, ModelNotFound, RateLimited, UpstreamError
from backtalk.domain.model import Prompt
from backtalk.http.egress import Reply
from backtalk.models.base import Upstream
from backtalk.models.retry import may_pass, retry_after

TOO_LONG = re.compile(
    r"context[ _-]?(length|window|size|limit)|maximum context|too many (input )?tokens|(prompt|input) is too long"
    r"|exceeds? the (available|maximum) (context|number of tokens)",
    re.IGNORECASE,
)
_FORMAT = re.compile(
    r"response[ _-]?(format|schema)|text\.format|json[ _-]?(schema|object|mode)|structured[ _-]?output|guided|grammar",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"not? (be )?(support|available|allow|permit|implement|enabl|recogni)|unsupported|unknown|unrecogni|unexpected|does not (take|accept)",
    re.IGNORECASE,
)
_REMEMBERED = 600.0
_MOST_REMEMBERED = 1000
_BAD_SCHEMA = re.compile(r"invalid (json )?schema", re.IGNORECASE)  # the client's to mend: the format itself is known


class Problem(msgspec.Struct):
    """An error body, whatever its shape, as the fields of OpenAI's."""

    message: str = ""
    param: str | None = None
    code: str | None = None


async def refusal(reply: Reply, upstream: Upstream, model: str, *, formatted: bool = False) -> BacktalkError:
    """The error for an answer that is not 200. `formatted`: the request had a `response_format`."""
    problem = _problem(await reply.body(), upstream)
    where = f"The model server '{upstream.name}'"
    match reply.status:
        case 400 | 422 if formatted and _about_format(problem):
            return FormatRefused(problem.message or f"{where} takes no response_format.", param="text.format")
        case 400 | 413 | 422:
            return _invalid(problem, where)
        case 401 | 403:
            return UpstreamError(
                f"{where} ({reply.origin}) refused the key that this server holds for it ({reply.status}). "
                "Whoever runs this server must set a valid key for it."
            )
        case 404:
            if problem.message:
                return ModelNotFound(model)
            return UpstreamError(f"{where} has nothing at {upstream.url}: is the base URL right, with its /v1?")
        case 429:
            return _limited(problem, where, retry_after(reply.headers))
    said = f": {problem.message}" if problem.message else "."
    status = 503 if reply.status in (503, 529) else 502
    hint = {"retry-after": "2", "retry-after-ms": "2000"} if may_pass(reply.status) else None
    return UpstreamError(f"{where} answered with status {reply.status}{said}", status=status, headers=hint)


def _about_format(problem: Problem) -> bool:
    said = f"{problem.param} {problem.message}"
    return bool(_FORMAT.search(said)) and not _BAD_SCHEMA.search(said) and not _too_long(problem)


def _too_long(problem: Problem) -> bool:
    return problem.code == "context_length_exceeded" or bool(TOO_LONG.search(problem.message))


def _invalid(problem: Problem, where: str) -> InvalidRequest:
    message = problem.message or f"{where} refused the request without a reason."
    code = "context_length_exceeded" if _too_long(problem) else problem.code
    return InvalidRequest(message, param=problem.param, code=code)


def _limited(problem: Problem, where: str, after: float | None) -> RateLimited:
    said = problem.message or "it gave no reason"
    error = RateLimited(f"{where} limits the rate of requests: {said}", retry_after=1.0 if after is None else after)
    if problem.code == "insufficient_quota":  # waiting does not help
        error.code = problem.code
        error.headers = {"x-should-retry": "false"}
    return error


def _problem(body: bytes, upstream: Upstream) -> Problem:
    try:
        problem = _read(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Problem()
    if upstream.api_key:
        problem.message = problem.message.replace(upstream.api_key, "***")
    return problem


def _read(body: Any) -> Problem:
    if isinstance(body, list) and body:  # Google wraps its error in a list
        body = body[0]
    if not isinstance(body, dict):
        return Problem()
    error = body.get("error", body)
    if not isinstance(error, dict):
        return Problem(str(error))
    message = error.get("message") or error.get("detail") or error.get("msg") or ""
    return Problem(str(message), _string(error.get("param")), _string(error.get("code")))


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


class FormatRefusals:
    """Formats that models have said not to know, with the server's words: asking them again is left out for a while.

    Remembered to the letter, and with whether there were tools: some servers take one or the other.
    """

    def __init__(self) -> None:
        self._said: dict[bytes, tuple[str, float]] = {}

    def check(self, prompt: Prompt) -> None:
        """Raises FormatRefused if asking again is of no use."""
        if not (self._said and prompt.text_format):
            return
        said, until = self._said.get(self._key(prompt), ("", 0.0))
        if monotonic() < until:
            raise FormatRefused(said, param="text.format")

    def note(self, prompt: Prompt, error: BacktalkError) -> None:
        """Remembers a refusal that is no matter of this one prompt."""
        if isinstance(error, FormatRefused) and _UNKNOWN.search(error.message):
            if len(self._said) >= _MOST_REMEMBERED:
                self._said.clear()
            self._said[self._key(prompt)] = (error.message[:500], monotonic() + _REMEMBERED)

    @staticmethod
    def _key(prompt: Prompt) -> bytes:
        return sha256(msgspec.json.encode([prompt.model, prompt.text_format, bool(prompt.tools)])).digest()
