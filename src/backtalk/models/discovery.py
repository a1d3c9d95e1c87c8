"""Model servers that nobody configured: keys in the environment, and servers that listen on loopback."""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from backtalk.core.errors import UpstreamError
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.listing import fetch

PATIENCE = 0.5
"""Seconds for all probes together, which run side by side. A closed loopback port refuses at once."""


class _Provider(NamedTuple):
    name: str
    key: str
    url: str
    adapter: str = "openai"


_PROVIDERS = (
    _Provider("openai", "OPENAI_API_KEY", "https://api.openai.com/v1"),
    _Provider("anthropic", "ANTHROPIC_API_KEY", "https://api.anthropic.com/v1", "anthropic"),
    _Provider("gemini", "GEMINI_API_KEY", "https://generativelanguage.googleapis.com/v1beta/openai"),
    _Provider("mistral", "MISTRAL_API_KEY", "https://api.mistral.ai/v1"),
    _Provider("groq", "GROQ_API_KEY", "https://api.groq.com/openai/v1"),
    _Provider("deepseek", "DEEPSEEK_API_KEY", "https://api.deepseek.com/v1"),
    _Provider("openrouter", "OPENROUTER_API_KEY", "https://openrouter.ai/api/v1"),
    _Provider("together", "TOGETHER_API_KEY", "https://api.together.xyz/v1"),
    _Provider("fireworks", "FIREWORKS_API_KEY", "https://api.fireworks.ai/inference/v1"),
    _Provider("cerebras", "CEREBRAS_API_KEY", "https://api.cerebras.ai/v1"),
    _Provider("xai", "XAI_API_KEY", "https://api.x.ai/v1"),
)
_LOOPBACK = (("ollama", 11434), ("llamacpp", 8080), ("lmstudio", 1234), ("vllm", 8000))
_LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1", "0.0.0.0"}  # noqa: S104  # names of this machine, nothing is bound


def from_environ(environ: Mapping[str, str], own_port: int | None = None) -> list[Upstream]:
    """Providers whose key is set. `OPENAI_BASE_URL` counts without a key too, unless it leads back to `own_port`."""
    found = []
    for name, variable, url, adapter in _PROVIDERS:
        key = environ.get(variable, "").strip()
        base = environ.get("OPENAI_BASE_URL", "").strip() if name == "openai" else ""
        if (key or base) and not _is_ours(base, own_port):
            found.append(Upstream(name, base or url, key or None, adapter=adapter))
    return found


async def on_loopback(
    egress: Egress, own_port: int | None = None, ports: tuple[tuple[str, int], ...] = _LOOPBACK
) -> list[Upstream]:
    """Servers on this machine that list models at their usual ports. Never us, and never another Backtalk."""
    candidates = [Upstream(name, f"http://127.0.0.1:{port}/v1") for name, port in ports if port != own_port]
    alive = await asyncio.gather(*(_is_model_server(candidate, egress) for candidate in candidates))
    return [candidate for candidate, yes in zip(candidates, alive, strict=True) if yes]


async def _is_model_server(candidate: Upstream, egress: Egress) -> bool:
    try:
        names = await fetch(candidate, egress, PATIENCE)
    except (UpstreamError, TimeoutError):
        return False
    return not any(name.startswith("backtalk/") for name in names)


def _is_ours(url: str, own_port: int | None) -> bool:
    parts = urlsplit(url)
    return bool(own_port) and parts.hostname in _LOCAL_HOSTS and (parts.port or 80) == own_port
