"""`backtalk config`, and the page that documents the settings."""

from pathlib import Path

import pytest
from command import Run, one_line

from backtalk.cli.config import page
from backtalk.core.settings import PriceSettings, Settings, UpstreamSettings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_up_to_date(run: Run) -> None:
    assert PAGE.read_text() == page(), "run `make docs`"
    assert run("config", "docs").stdout == page()


@pytest.mark.parametrize("model", [Settings, UpstreamSettings, PriceSettings])
def test_every_setting_is_documented(model: type[Settings | UpstreamSettings | PriceSettings]) -> None:
    assert [name for name, field in model.model_fields.items() if not (field.description or "").endswith(".")] == []
    assert all(f"| `{name}` |" in PAGE.read_text() for name in model.model_fields)


def test_what_is_in_force_is_shown_without_secrets(run: Run, tmp_path: Path) -> None:
    (tmp_path / "backtalk.toml").write_text('upstream_key = "hush"\nmax_runs = 7')
    shown = run("config", "show", BACKTALK_MAX_RUNS="8", BACKTALK_DATABASE="postgresql://me:hush@db/x").stdout
    lines = dict(line.partition(" ")[::2] for line in shown.splitlines())
    assert lines["max_runs"].strip() == "8"
    assert lines["database"].strip() == "postgresql://***@db/x"
    assert "hush" not in shown


def test_a_slip_of_the_pen_is_told_in_a_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "backtalk.toml").write_text("max_rnus = 7")
    result = run("doctor")
    assert result.returncode == 2
    assert "did you mean 'max_runs'?" in one_line(result)


def test_an_env_file_that_is_none(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"BACKTALK_MODEL=\xff")
    result = run("config", "show")
    assert (result.returncode, ".env" in one_line(result)) == (2, True)
