"""`backtalk config`: the settings, as they are and as they are documented."""

from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from backtalk.cli.common import read_settings, shown
from backtalk.core.settings import NOT_SETTINGS, PREFIX, PriceSettings, Settings, UpstreamSettings

app = typer.Typer(help="The settings.", no_args_is_help=True)

_HEAD = f"""\
# Configuration

Everything works without any. What is set comes from four places; the stronger one wins:

1. arguments: `backtalk serve --home data`, or `Backtalk(Settings(home="data"))` in Python
2. the environment: `{PREFIX}HOME=data`
3. a file `.env` in the working folder: `{PREFIX}HOME=data`
4. a file `backtalk.toml` in the working folder: `home = "data"`

An unknown setting is an error wherever it stands, so that a slip of the pen never goes unnoticed. `backtalk config show`
shows what is in force, `backtalk doctor` whether it works.

This page is made from the settings by `make docs`.
"""
_UPSTREAMS = """
Lists are written with commas in the environment and in `.env`, as arrays in TOML.

## Model servers

`upstream` names one. Several go into `backtalk.toml`, a table each (in the environment: one JSON array):

```toml
[[upstreams]]
name = "home"
url = "http://127.0.0.1:9000/v1"
```
"""
_ALIASES = """
A server that is refused, away, overloaded or failing before its first token is asked again, as often as its retry budget
allows; after five failures in a row it is left alone for ten seconds. What then still fails goes to the next model of an
alias:

```toml
model = ["fast"]

[aliases]
fast = ["home/llama-3.3", "openai/gpt-4o-mini"]
```

A response tells in `backtalk.model` which one answered, and in `backtalk.cost_usd` what it cost where `prices` know it.
Backtalk ships no prices, as they change; the provider's page has them:

```toml
[[prices]]
model = "openai/gpt-4o-mini*"
input = 0.15
cached = 0.075
output = 0.6
```
"""
_PROVIDERS = """
Providers with a wire of their own (Bedrock, Gemini, Cohere, …) are reached through pydantic-ai: `pip install
"backtalk[providers]" "pydantic-ai-slim[bedrock]"`. Its keys come from the environment that it reads itself. One table for
each provider, as their health is counted apart; the ids of models are then `aws/bedrock:…`:

```toml
[[upstreams]]
name = "aws"
adapter = "pydantic-ai"
models = ["bedrock:us.amazon.nova-lite-v1:0"]
```
"""
_OTHERS = f"""
## Variables that are no settings

They carry the prefix `{PREFIX}` and mean something else.

| variable | what it is |
|---|---|
"""


@app.command()
def show() -> None:
    """Show the settings in force. Keys and passwords stay hidden."""
    settings = read_settings()
    width = max(map(len, Settings.model_fields))
    for name in Settings.model_fields:
        typer.echo(f"{name:<{width}}  {_value(name, getattr(settings, name))}")


@app.command()
def docs() -> None:
    """Print the page that documents all settings, in Markdown."""
    typer.echo(page(), nl=False)


def page() -> str:
    """`docs/configuration.md`."""
    others = "".join(f"| `{name}` | {what} |\n" for name, what in NOT_SETTINGS.items())
    return "\n".join(
        [
            _HEAD,
            _table(Settings) + _UPSTREAMS,
            _table(UpstreamSettings) + _PROVIDERS + _ALIASES,
            _table(PriceSettings) + _OTHERS + others,
        ]
    )


def _table(model: type[BaseModel]) -> str:
    return "| setting | kind | default | what it does |\n|---|---|---|---|\n" + "".join(_rows(model))


def _rows(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"| `{name}` | {_kind(field.annotation)} | {_default(field)} | {field.description} |\n"


def _kind(annotation: Any) -> str:
    """A field's type in words: `str | None` is a text."""
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return _kind(next(kind for kind in get_args(annotation) if kind is not type(None)))
    if get_origin(annotation) is list:
        return "tables" if get_args(annotation)[0] in (UpstreamSettings, PriceSettings) else "list"
    if get_origin(annotation) is dict:
        return "table"
    names = {bool: "true or false", int: "number", float: "number", SecretStr: "secret"}
    return names.get(annotation, "text")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return "the platform's user data folder"
    if field.default in (None, [], {}):
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _value(name: str, value: Any) -> str:
    if name == "database":
        return shown(value) if value else "SQLite in the home folder"
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_value(name, entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(getattr(entry, "name", None) or getattr(entry, "model", None) or str(entry) for entry in value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
