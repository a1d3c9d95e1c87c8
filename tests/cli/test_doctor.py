"""`backtalk doctor`: what it finds, and what it says about it."""

from pathlib import Path

import pytest
from command import Run

from backtalk.testing import ScriptedModel, serve
from backtalk.testing.server import free_port


def findings(result: object) -> dict[str, tuple[str, str]]:
    """state and words of each line, by what it is about."""
    lines = [line.split(None, 2) for line in result.stdout.splitlines()]  # type: ignore[attr-defined]
    return {what: (state, says) for state, what, says in lines}


def test_a_fresh_machine_is_well_and_stays_untouched(run: Run, tmp_path: Path) -> None:
    result = run("doctor")
    found = findings(result)
    assert result.returncode == 0
    assert found.keys() == {"model", "database", "access", "embedder", "home", "disk", "fsync"}
    assert found["model"][0] == "warning"
    assert "BACKTALK_UPSTREAM" in found["model"][1]
    assert "256 dimensions" in found["embedder"][1]
    assert not (tmp_path / "home").exists()


def test_a_database_in_use_is_written_and_read(run: Run, database: str) -> None:
    before = findings(run("doctor", BACKTALK_DATABASE=database))
    assert "serve" in before["database"][1]
    run("db", "upgrade", BACKTALK_DATABASE=database)
    result = run("doctor", BACKTALK_DATABASE=database)
    assert (result.returncode, findings(result)["database"][0]) == (0, "ok")
    assert "written and read" in findings(result)["database"][1]


@pytest.mark.parametrize(
    "database", ["postgresql://me:secret@127.0.0.1:1/x", "mysql://me:secret@127.0.0.1:1/x", "oracle://x", "nonsense"]
)
def test_a_database_that_cannot_be_used(run: Run, database: str) -> None:
    result = run("doctor", BACKTALK_DATABASE=database)
    assert (result.returncode, findings(result)["database"][0]) == (1, "problem")
    assert "BACKTALK_DATABASE" in findings(result)["database"][1]
    assert "secret" not in result.stdout + result.stderr


def test_a_file_that_is_no_database(run: Run, tmp_path: Path) -> None:
    (tmp_path / "diary.sqlite").write_bytes(b"my diary, not a database" * 100)
    result = run("doctor", BACKTALK_DATABASE=f"sqlite:///{tmp_path / 'diary.sqlite'}")
    assert (result.returncode, findings(result)["database"][0]) == (1, "problem")


def test_model_servers_are_asked(run: Run, tmp_path: Path) -> None:
    from backtalk import Backtalk, Settings

    upstream = Backtalk(Settings(home=tmp_path / "upstream", discover=False), models=[ScriptedModel()])
    with serve(upstream) as url:
        found = findings(run("doctor", BACKTALK_UPSTREAM=f"{url}/v1", BACKTALK_MODEL="scripted"))
    assert found["model"][0] == "ok"
    gone = run("doctor", BACKTALK_UPSTREAM=f"http://127.0.0.1:{free_port()}/v1")
    assert (gone.returncode, findings(gone)["model"][0]) == (1, "problem")
    bad = run("doctor", BACKTALK_MODELS="nowhere:Model")
    assert (bad.returncode, findings(bad)["model"][0]) == (1, "problem")


def test_a_home_that_others_can_enter(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    found = findings(run("doctor"))
    assert (found["home"][0], "chmod 700" in found["home"][1]) == ("warning", True)
    home.chmod(0o777)
    result = run("doctor")
    assert (result.returncode, findings(result)["home"][0]) == (1, "problem")


def test_a_home_of_our_making_is_private(run: Run, tmp_path: Path) -> None:
    run("db", "upgrade")
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    assert findings(run("doctor"))["home"][0] == "ok"


def test_a_proxy_needs_a_key(run: Run) -> None:
    run("db", "upgrade")
    warned = findings(run("doctor", BACKTALK_HOSTS="chat.example"))["access"]
    assert (warned[0], "backtalk keys create" in warned[1]) == ("warning", True)
    run("keys", "create")
    assert findings(run("doctor", BACKTALK_HOSTS="chat.example"))["access"][0] == "ok"
