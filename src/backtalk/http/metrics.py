"""Figures for Prometheus: requests, runs in progress, tokens, time to the first token. The extra `backtalk[metrics]`."""

from collections.abc import Callable

from backtalk.http.access_log import Exchange

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The figures of one application, in a registry of its own. `running` tells how many runs are in progress.

    Labels are few and known beforehand: no path, model or project that a client made up. Raises ValueError when the
    extra is missing.
    """

    def __init__(self, running: Callable[[], int]) -> None:
        try:
            import prometheus_client as prometheus  # noqa: PLC0415  # lazy: an extra
        except ModuleNotFoundError as error:
            raise ValueError('The setting metrics needs an extra: pip install "backtalk[metrics]"') from error
        self.registry = prometheus.CollectorRegistry()
        self.content_type = prometheus.CONTENT_TYPE_LATEST
        self._generate = prometheus.generate_latest
        self._requests = prometheus.Counter(
            "backtalk_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._tokens = prometheus.Counter(
            "backtalk_tokens", "Tokens that turns cost.", ["direction"], registry=self.registry
        )
        self._first_token = prometheus.Histogram(
            "backtalk_first_token_seconds",
            "From a request to the first token of its answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        in_progress = prometheus.Gauge(
            "backtalk_runs_in_progress", "Responses that are being made now.", registry=self.registry
        )
        in_progress.set_function(running)

    def observe(self, exchange: Exchange) -> None:
        method = exchange.method if exchange.method in _METHODS else "other"
        self._requests.labels(method, exchange.route or "other", str(exchange.status)).inc()
        if exchange.turn:
            self._tokens.labels("input").inc(exchange.turn.input_tokens)
            self._tokens.labels("output").inc(exchange.turn.output_tokens)
        if exchange.first_token is not None:
            self._first_token.observe(exchange.first_token)

    def render(self) -> bytes:
        """The figures in Prometheus' text format, whose media type is `content_type`."""
        return self._generate(self.registry)
