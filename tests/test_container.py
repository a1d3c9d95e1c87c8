"""Dockerfile and compose.yaml, as far as they can be checked without a container engine; `.ci/run` runs the same steps."""

import re
from pathlib import Path
from typing import Any

import yaml

from backtalk import Settings

ROOT = Path(__file__).parents[1]
INSTRUCTIONS = {
    "FROM",
    "WORKDIR",
    "COPY",
    "RUN",
    "USER",
    "ENV",
    "VOLUME",
    "EXPOSE",
    "HEALTHCHECK",
    "STOPSIGNAL",
    "ENTRYPOINT",
    "CMD",
}


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, rest) of each line, continuations joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())  # type: ignore[no-any-return]


def is_setting(name: str) -> bool:
    return not name.startswith("BACKTALK_") or name.removeprefix("BACKTALK_").lower() in Settings.model_fields


def test_the_dockerfile_is_well_formed() -> None:
    lines = dockerfile()
    assert {instruction for instruction, _ in lines} <= INSTRUCTIONS
    copied = [source for word, rest in lines if word == "COPY" and "--from" not in rest for source in rest.split()[:-1]]
    assert [source for source in copied if not (ROOT / source).exists()] == []
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{source.removeprefix('./')}" for source in copied} <= set(kept)
    assert ("USER", "backtalk") in lines
    assert any("compileall" in rest for _, rest in lines)
    names = [name for word, rest in lines if word == "ENV" for name in re.findall(r"(\w+)=", rest)]
    assert all(map(is_setting, names))


def test_the_services_fit_together() -> None:
    found = compose()
    services = found["services"]
    assert {"backtalk", "backtalk-postgres", "postgres"} == set(services)
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert {volume.split(":")[0] for volume in service.get("volumes", ())} <= set(found["volumes"])
        assert all(map(is_setting, service.get("environment", {})))
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert services["backtalk-postgres"]["environment"]["BACKTALK_DATABASE"].startswith("postgresql://")
