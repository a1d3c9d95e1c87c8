"""Settings: four places, the stronger one wins, and no slip of the pen goes unnoticed."""

import os
from pathlib import Path

import pytest

from backtalk import Settings
from backtalk.core.settings import UnknownSetting


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.upper().startswith("BACKTALK_"):
            monkeypatch.delenv(name)


def test_the_stronger_place_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("backtalk.toml").write_text('model = "toml"\nmax_runs = 1\nmax_body = 1\nmax_upload = 1')
    assert Settings().model == ["toml"]
    Path(".env").write_text("BACKTALK_MODEL=file\nBACKTALK_MAX_RUNS=2\nBACKTALK_MAX_BODY=2\nOTHER=2")
    assert Settings().model == ["file"]
    monkeypatch.setenv("BACKTALK_MODEL", "environment")
    monkeypatch.setenv("BACKTALK_MAX_RUNS", "3")
    assert Settings().model == ["environment"]
    settings = Settings(model="argument")
    assert (settings.model, settings.max_runs, settings.max_body, settings.max_upload) == (["argument"], 3, 2, 1)


def test_an_unknown_setting_in_toml() -> None:
    Path("backtalk.toml").write_text('durablity = "behind"')
    assert_told("'durablity' in backtalk.toml", "'durability'")


def test_an_unknown_key_of_a_model_server() -> None:
    Path("backtalk.toml").write_text('[[upstreams]]\nname = "a"\nurl = "http://a"\napi_kye = "secret"')
    assert_told("'api_kye' in backtalk.toml, [[upstreams]]", "'api_key'")


def test_an_unknown_setting_in_the_env_file() -> None:
    Path(".env").write_text("BACKTALK_UPSTRAEM=http://127.0.0.1:9/v1\nBACKTALK_KEY=mine")
    assert_told("'BACKTALK_UPSTRAEM' in .env", "'BACKTALK_UPSTREAM'")


def test_an_unknown_setting_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("backtalk_hoem", "x")
    assert_told("'BACKTALK_HOEM' in the environment", "'BACKTALK_HOME'")


def test_an_unknown_argument() -> None:
    with pytest.raises(UnknownSetting, match=r"'databse' in the arguments: did you mean 'database'\?"):
        Settings(databse="x")


def test_one_that_resembles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKTALK_ZZZZ", "x")
    assert_told("'BACKTALK_ZZZZ'", "backtalk config docs")


@pytest.mark.parametrize("name", ["PORT", "KEY", "URL", "TEST_POSTGRES", "SERVICE_HOST", "PORT_8000_TCP_ADDR"])
def test_variables_that_are_no_settings(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"BACKTALK_{name}", "tcp://10.0.0.1:8000")
    assert Settings().model == []


@pytest.mark.parametrize("content", [b"hosts = [", b"\xff\xfe", b"model = 1\nmodel = 2"])
def test_a_toml_file_that_is_none(content: bytes) -> None:
    Path("backtalk.toml").write_bytes(content)
    with pytest.raises(ValueError, match=r"backtalk\.toml cannot be read"):
        Settings()


def assert_told(name: str, meant: str) -> None:
    with pytest.raises(UnknownSetting) as told:
        Settings()
    assert name in str(told.value)
    assert meant in str(told.value)
    assert "secret" not in str(told.value)
