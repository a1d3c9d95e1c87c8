"""Every error that Backtalk raises on purpose, in one tree. `http/errors.py` alone renders them.

BacktalkError                 500  server_error
├── StorageDamaged                 x-should-retry: false
├── InvalidRequest            400  invalid_request_error
│   └── FormatRefused              a model server takes no `text.format`; asked for in words instead
├── Unauthorized              401  code invalid_api_key
├── Forbidden                 403
├── NotFound                  404
│   └── ModelNotFound              code model_not_found, param model
├── MethodNotAllowed          405
├── Conflict                  409  x-should-retry: false
├── TooSlow                   408
├── TooLarge                  413
├── UnsupportedMedia          415
├── BadRange                  416
├── Misdirected               421  a Host that is not ours
├── RateLimited               429  retry-after
├── UpstreamError             502  a model server failed (`reason` says how)
├── Overloaded                503  retry-after: come again
├── HeadersTooLarge           431
└── StorageFull               507
"""

from collections.abc import Mapping


class BacktalkError(Exception):
    """An error with a status and a code of OpenAI's error envelope, and a message that says what to do next."""

    status = 500
    type = "server_error"
    code: str | None = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.headers = dict(headers or {})

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's error body: all four keys, always."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class StorageDamaged(BacktalkError):
    """The database's file is not what was written to it. Nothing but a copy helps."""

    code = "storage_damaged"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"x-should-retry": "false"})


class InvalidRequest(BacktalkError):
    status = 400
    type = "invalid_request_error"
    code = None


class FormatRefused(InvalidRequest):
    """A model server does not know the format that it was asked to answer in."""


class Unauthorized(BacktalkError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(BacktalkError):
    status = 403
    type = "invalid_request_error"
    code = None


class NotFound(BacktalkError):
    status = 404
    type = "invalid_request_error"
    code: str | None = None


class ModelNotFound(NotFound):
    code = "model_not_found"

    def __init__(self, model: str, known: str = "") -> None:
        hint = f" Models here: {known}." if known else ""
        super().__init__(f"The model '{model[:128]}' does not exist.{hint}", param="model")


class MethodNotAllowed(BacktalkError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_supported"


class Conflict(BacktalkError):
    """The state forbids it; the same request again would meet the same answer, so SDKs are told not to retry."""

    status = 409
    type = "invalid_request_error"
    code = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param, code=code, headers={"x-should-retry": "false"})


class TooLarge(BacktalkError):
    status = 413
    type = "invalid_request_error"
    code = None


class TooSlow(BacktalkError):
    status = 408
    type = "invalid_request_error"
    code = None


class HeadersTooLarge(BacktalkError):
    status = 431
    type = "invalid_request_error"
    code = None


class UnsupportedMedia(BacktalkError):
    status = 415
    type = "invalid_request_error"
    code = None


class BadRange(BacktalkError):
    """A byte range that the file has not got."""

    status = 416
    type = "invalid_request_error"
    code = None


class Misdirected(BacktalkError):
    status = 421
    type = "invalid_request_error"
    code = None


def _retry_after(seconds: float) -> dict[str, str]:
    return {"retry-after": str(max(1, round(seconds))), "retry-after-ms": str(round(seconds * 1000))}


class RateLimited(BacktalkError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message, headers=_retry_after(retry_after))


class UpstreamError(BacktalkError):
    """A model server refused, broke off or spoke nonsense.

    `reason` is ours: upstream_unavailable | upstream_timeout | upstream_error | upstream_protocol_error |
    upstream_too_large. OpenAI's closed enum of codes knows only `server_error` for all of them.
    """

    status = 502
    code = "server_error"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "upstream_error",
        status: int = 502,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, headers=headers)
        self.reason = reason
        self.status = status


class Overloaded(BacktalkError):
    status = 503
    code = "service_unavailable"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message, headers=_retry_after(retry_after))


class StorageFull(BacktalkError):
    status = 507
    code = "storage_full"
