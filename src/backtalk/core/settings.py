"""What can be set, read once by the composition root: arguments over environment over `.env` over `backtalk.toml`."""

from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_data_path
from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


class UpstreamSettings(BaseModel):
    """One OpenAI-compatible model server."""

    name: str = Field(description="Prefix of its models: `name/model`.", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    url: str = Field(description="Base URL, with `/v1` where the server has one.", pattern=r"^https?://")
    api_key: SecretStr | None = Field(default=None, description="Sent as a bearer token to this server only.")
    models: list[str] = Field(default=[], description="Model ids, for servers that cannot list them.")


class Settings(BaseSettings):
    """Settings of one Backtalk application. Environment names carry the prefix `BACKTALK_`."""

    model_config = SettingsConfigDict(
        env_prefix="BACKTALK_", env_file=".env", toml_file="backtalk.toml", extra="ignore", validate_default=False
    )

    home: Path = Field(
        default_factory=lambda: user_data_path("backtalk", appauthor=False),
        description="Folder of the database, the uploaded files and the search index.",
    )
    database: str | None = Field(
        default=None,
        description="Database URL: `sqlite:///path`, `postgresql://…` or `mysql://…`. Default: a SQLite file in `home`.",
    )
    model: str | None = Field(default=None, description="Model that answers when a request names none.")
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
    max_upload: int = Field(default=512 * 2**20, gt=0, description="Bytes of an uploaded file.")
    hosts: Annotated[list[str], NoDecode] = Field(
        default=[], description="Host names to answer to besides the loopback ones, separated by commas."
    )
    origins: Annotated[list[str], NoDecode] = Field(
        default=[], description="Origins whose pages may call this server, separated by commas."
    )
    strict: bool = Field(default=False, description="Refuse unknown body fields with 400 instead of ignoring them.")

    @field_validator("models", "hosts", "origins", mode="before")
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
        return init_settings, env_settings, dotenv_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def database_url(self) -> str:
        """The database to use, the default one spelled out."""
        return self.database or f"sqlite:///{self.home / 'backtalk.sqlite'}"
