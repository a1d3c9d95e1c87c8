"""What can be set, read once by the composition root: arguments over environment over `.env` over `backtalk.toml`."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_data_path
from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

PREFIX = "BACKTALK_"
NOT_SETTINGS = {
    "BACKTALK_PORT": "set by `backtalk serve` for its processes: the port that they serve",
    "BACKTALK_URL": "the server that `backtalk chat` and `backtalk ingest` call",
    "BACKTALK_KEY": "the API key that they call it with",
    "BACKTALK_VENV": "the environment that `make` works in",
    "BACKTALK_SERVICES": "where the CI's database servers keep their files",
    "BACKTALK_TEST_*": "what the tests of Backtalk itself need",
    "BACKTALK_PORT_*": "set by Kubernetes for a service of the name `backtalk`",
    "BACKTALK_SERVICE_*": "set by Kubernetes for a service of the name `backtalk`",
}
"""Variables that carry the prefix and are no settings. Every other one must be a setting."""


class UnknownSetting(ValueError):
    """A setting that there is not. The message names it, where it stands, and what may be meant."""

    def __init__(self, name: str, place: str, known: Iterable[str], prefix: str = "") -> None:
        meant = difflib.get_close_matches(name.lower(), [*known], 1, 0.6)
        hint = (
            f"did you mean '{_spelled(meant[0], prefix)}'?" if meant else "`backtalk config docs` names all there are."
        )
        super().__init__(f"unknown setting '{_spelled(name, prefix)}' in {place}: {hint}")


def _spelled(name: str, prefix: str) -> str:
    return f"{prefix}{name.upper()}" if prefix else name


class UpstreamSettings(BaseModel, extra="forbid"):
    """One OpenAI-compatible model server."""

    name: str = Field(description="Prefix of its models: `name/model`.", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    url: str = Field(
        default="", description="Base URL, with `/v1` where the server has one.", pattern=r"^(https?://.*)?$"
    )
    api_key: SecretStr | None = Field(default=None, description="Its key, sent to this server only.")
    api_key_env: str | None = Field(default=None, description="The environment variable that holds its key.")
    api_key_file: Path | None = Field(default=None, description="The file that holds its key.")
    adapter: Literal["openai", "openai-responses", "anthropic", "pydantic-ai"] = Field(
        default="openai",
        description="Its dialect: Chat Completions, OpenAI's Responses, Anthropic's Messages; or `pydantic-ai` for what "
        'that library knows, which needs `pip install "backtalk[providers]"` and no `url`.',
    )
    models: list[str] = Field(default=[], description="Model ids, for servers that cannot list them.")
    concurrency: int | None = Field(default=None, ge=1, description="Calls that it takes at once.")

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if bool(self.url) == (self.adapter == "pydantic-ai"):
            raise ValueError("'url' is needed, but for the adapter 'pydantic-ai', which has none")
        return self

    def key(self, environ: Mapping[str, str]) -> str | None:
        """The key, from where it is kept. Raises ValueError for a place that has none."""
        if self.api_key_env:
            if not (found := environ.get(self.api_key_env, "").strip()):
                raise ValueError(f"upstream '{self.name}': the environment has no {self.api_key_env}")
            return found
        if self.api_key_file:
            try:
                return self.api_key_file.read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"upstream '{self.name}': {self.api_key_file} cannot be read: {error}") from None
        return self.api_key.get_secret_value() if self.api_key else None


class PriceSettings(BaseModel, extra="forbid"):
    """What a model's tokens cost, in USD per million."""

    model: str = Field(description="A model id, or a pattern such as `openai/gpt-4o*`. The first that fits counts.")
    input: float = Field(ge=0, description="Of a prompt.")
    output: float = Field(ge=0, description="Of an answer, thinking included.")
    cached: float | None = Field(default=None, ge=0, description="Of a prompt that was cached. Default: as `input`.")
    cache_write: float | None = Field(
        default=None, ge=0, description="Of a prompt written to a cache. Default: `input`."
    )


class Settings(BaseSettings):
    """Settings of one Backtalk application. Environment names carry the prefix `BACKTALK_`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", toml_file="backtalk.toml", extra="ignore", validate_default=False
    )

    home: Path = Field(
        default_factory=lambda: user_data_path("backtalk", appauthor=False),
        description="Folder of the database, the uploaded files and the search index.",
    )
    database: str | None = Field(
        default=None,
        description="Database URL: `sqlite:///path`, `postgresql://…` or `mysql://…`. Default: a SQLite file in `home`.",
    )
    backups: int = Field(
        default=7,
        ge=0,
        description="Daily copies of a SQLite database that are kept, in `backups` beside it. 0: none are made.",
    )
    model: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="Model that answers when a request names none. Of several, separated by commas, the next is asked "
        "when the one before it cannot answer.",
    )
    aliases: dict[str, str | Annotated[list[str], Field(min_length=1)]] = Field(
        default={}, description="Names for models (`[aliases]` in TOML); one for a list is a chain of fallbacks."
    )
    prices: list[PriceSettings] = Field(
        default=[], description="What tokens cost (`[[prices]]` in TOML): responses then tell their cost."
    )
    upstream: str | None = Field(default=None, description="Base URL of an OpenAI-compatible model server.")
    upstream_key: SecretStr | None = Field(default=None, description="Bearer token for `upstream`.")
    upstreams: list[UpstreamSettings] = Field(
        default=[], description="Further model servers (`[[upstreams]]` in TOML)."
    )
    models: Annotated[list[str], NoDecode] = Field(
        default=[], description="Model classes to load, as `module:attribute`, separated by commas."
    )
    discover: bool = Field(default=True, description="Look for model servers on loopback and keys in the environment.")
    connect_timeout: float = Field(default=10.0, gt=0, description="Seconds to reach a model server.")
    idle_timeout: float = Field(default=60.0, gt=0, description="Seconds a model server may stay silent.")
    durability: Literal["before", "behind"] = Field(
        default="before", description="`before`: an event is on disk before a client sees it. `behind`: it follows."
    )
    commit_gap: float = Field(
        default=0.01, ge=0, le=1, description="Least seconds between the starts of two commits of the log."
    )
    context_tokens: int = Field(default=128_000, gt=0, description="Tokens of context that a prompt may fill.")
    max_tool_rounds: int = Field(default=8, gt=0, description="Times that one response may go back to its model.")
    tool_timeout: float = Field(default=30.0, gt=0, description="Seconds a tool may take.")
    source_timeout: float = Field(default=2.0, gt=0, description="Seconds a context source may take.")
    max_runs: int = Field(default=1000, gt=0, description="Responses in progress at once; more are answered with 503.")
    max_body: int = Field(default=8 * 2**20, gt=0, description="Bytes of a JSON body.")
    max_bodies: int = Field(
        default=256 * 2**20, gt=0, description="Bytes of JSON bodies in memory at once; more are answered with 503."
    )
    max_connections: int = Field(
        default=10_000, gt=0, description="Connections that `serve` has open at once; more are answered with 503."
    )
    write_timeout: float = Field(
        default=60.0, gt=0, description="Seconds after which `serve` cuts off a client that does not read."
    )
    socket_idle: float = Field(
        default=600.0, gt=0, description="Seconds after which a WebSocket without a frame or a turn is closed."
    )
    socket_life: float = Field(default=3600.0, gt=0, description="Seconds that a WebSocket may last.")
    body_timeout: float = Field(
        default=120.0,
        gt=0,
        description="Seconds in which a request's body must have come; uploads have ten times as long.",
    )
    max_upload: int = Field(default=512 * 2**20, gt=0, description="Bytes of an uploaded file.")
    hosts: Annotated[list[str], NoDecode] = Field(
        default=[], description="Host names to answer to besides the loopback ones, separated by commas."
    )
    origins: Annotated[list[str], NoDecode] = Field(
        default=[], description="Origins whose pages may call this server, separated by commas."
    )
    strict: bool = Field(default=False, description="Refuse unknown body fields with 400 instead of ignoring them.")
    watchdog: float = Field(
        default=0.25,
        ge=0,
        description="Seconds of code that blocks the event loop until a log line says where. 0: never.",
    )
    access_log: bool = Field(default=True, description="`serve` logs one line for each request.")
    log_format: Literal["auto", "json", "pretty"] = Field(
        default="auto",
        description="Log lines of `serve`: `json`, `pretty`, or `auto`: pretty on a terminal, else JSON.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that `serve` logs: `debug`, `info`, `warning` or `error`."
    )
    metrics: bool = Field(
        default=False, description='Serve `/metrics` for Prometheus; needs `pip install "backtalk[metrics]"`.'
    )

    @field_validator("model", "models", "hosts", "origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Lists of names are written with commas in the environment."""
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    def __init__(self, **values: object) -> None:
        super().__init__(**values)  # type: ignore[arg-type]  # pydantic validates; names are the fields above

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources, the strongest first. Raises ValueError for a file that cannot be read, UnknownSetting."""
        try:
            toml = TomlConfigSettingsSource(settings_cls)
        except (ValueError, OSError) as error:
            raise ValueError(f"backtalk.toml cannot be read: {error}") from error
        _check(getattr(init_settings, "init_kwargs", {}), "the arguments")
        _check_variables(getattr(env_settings, "env_vars", {}), "the environment")
        _check_variables(getattr(dotenv_settings, "env_vars", {}), ".env")
        _check(toml.toml_data, "backtalk.toml")
        return init_settings, env_settings, dotenv_settings, toml

    @property
    def database_url(self) -> str:
        """The database to use, the default one spelled out."""
        return self.database or f"sqlite:///{self.home / 'backtalk.sqlite'}"


def _check(given: Mapping[str, Any], place: str) -> None:
    """Raises UnknownSetting, also for a key of an `[[upstreams]]` table."""
    for name in given:
        if name.lower() not in Settings.model_fields:
            raise UnknownSetting(name, place, Settings.model_fields)
    for entry in given.get("upstreams") or ():
        for name in entry if isinstance(entry, dict) else ():
            if name not in UpstreamSettings.model_fields:
                raise UnknownSetting(name, f"{place}, [[upstreams]]", UpstreamSettings.model_fields)


def _check_variables(variables: Mapping[str, str | None], place: str) -> None:
    """Raises UnknownSetting for a variable with our prefix that means nothing. Case is of no account, as in pydantic."""
    for variable in map(str.upper, variables):
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and name not in Settings.model_fields and not _is_no_setting(variable):
            raise UnknownSetting(name, place, Settings.model_fields, PREFIX)


def _is_no_setting(variable: str) -> bool:
    return any(variable == name or (name[-1] == "*" and variable.startswith(name[:-1])) for name in NOT_SETTINGS)
