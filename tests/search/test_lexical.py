"""The full-text cache: what it finds, and that it survives whatever happens to its file."""

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from backtalk.search.lexical import OPEN_FILES, Lexicon, Lexicons

DOCS = {"a": "r1", "b": "r1"}
TEXTS = [(1, "a", "red apples and pears"), (2, "a", "a green car"), (3, "b", "red cars, red bikes")]


@pytest.fixture
def lexicon(tmp_path: Path) -> Lexicon:
    made = Lexicon(tmp_path / "x.sqlite")
    fill(made)
    return made


def fill(lexicon: Lexicon, version: int = 1) -> None:
    lexicon.add(version, DOCS, TEXTS)
    lexicon.settle(version, DOCS)


def ids(lexicon: Lexicon, query: str, **options: object) -> list[int]:
    found = lexicon.search(None, [query], 10, **options)  # type: ignore[arg-type]
    assert found is not None
    return sorted(found[0], key=lambda id_: -found[0][id_])


def test_best_first_with_positive_scores(lexicon: Lexicon) -> None:
    assert ids(lexicon, "red bikes") == [3, 1]
    found = lexicon.search(1, ["red bikes", "nothing"], 10)
    assert found is not None
    assert min(found[0].values()) > 0
    assert found[1] == {}
    assert lexicon.search(2, ["red"], 10) is None
    lexicon.close()


def test_only_the_documents_that_are_allowed_before_the_limit(lexicon: Lexicon) -> None:
    (found,) = lexicon.search(1, ["red bikes"], 1, ["a"]) or []
    assert list(found) == [1]
    assert set(ids(lexicon, "red cars", docs=["a"])) == {1, 2}
    assert ids(lexicon, "red", docs=[]) == []
    lexicon.close()


def test_a_document_is_replaced_and_removed(lexicon: Lexicon) -> None:
    lexicon.add(2, {"a": "r2"}, [(4, "a", "blue plums")])
    lexicon.settle(2, {"a"})
    assert lexicon.docs() == {"a": "r2"}
    assert lexicon.version() == 2
    assert (ids(lexicon, "plums"), ids(lexicon, "red"), ids(lexicon, "green")) == ([4], [], [])
    lexicon.close()


def test_one_that_lags_behind_changes_nothing(lexicon: Lexicon) -> None:
    lexicon.settle(5, DOCS)
    lexicon.add(4, {"c": "r1"}, [(9, "c", "zebra")])
    lexicon.settle(4, {"c"})
    assert (lexicon.version(), lexicon.docs(), ids(lexicon, "zebra")) == (5, DOCS, [])
    lexicon.close()


def test_it_is_still_there_after_a_restart(lexicon: Lexicon, tmp_path: Path) -> None:
    lexicon.close()
    again = Lexicon(tmp_path / "x.sqlite")
    assert again.version() == 1
    assert ids(again, "apples") == [1]
    again.close()


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "garbage":
        path.write_bytes(b"no database at all, but long enough to be one" * 100)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "zeroed":
        path.write_bytes(data[:100] + bytes(len(data) - 100))
    elif how == "other format":
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 77")
        connection.close()
    elif how == "no tables":
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE chunks")
        connection.close()
    else:
        path.write_bytes(data[: int(len(data) * float(how))])


@pytest.mark.parametrize(
    "how", ["garbage", "empty", "zeroed", "other format", "no tables", "0.01", "0.2", "0.5", "0.7", "0.9"]
)
def test_a_broken_file_is_made_again(lexicon: Lexicon, tmp_path: Path, how: str) -> None:
    lexicon.close()
    for ending in ("-wal", "-shm"):
        (tmp_path / f"x.sqlite{ending}").unlink(missing_ok=True)
    damage(tmp_path / "x.sqlite", how)
    again = Lexicon(tmp_path / "x.sqlite")
    if how == "no tables":
        assert ids(again, "red", docs=["a"]) == []
    assert again.version() is None
    assert again.search(1, ["red"], 10) is None
    fill(again)
    assert ids(again, "red bikes") == [3, 1]
    again.close()


def test_scopes_do_not_know_each_other(tmp_path: Path) -> None:
    lexicons = Lexicons(tmp_path)
    fill(lexicons["p/one"])
    alone = lexicons["p/one"].search(1, ["red apples"], 10)
    lexicons["q/two"].add(1, {"z": "r"}, [(7, "z", "red red red")])
    assert lexicons["p/one"].search(1, ["red apples"], 10) == alone
    lexicons.drop("p/one")
    assert lexicons["p/one"].version() is None
    assert ids(lexicons["q/two"], "red") == [7]
    lexicons.close()


def test_few_files_stay_open(tmp_path: Path) -> None:
    lexicons = Lexicons(tmp_path)
    first = lexicons["0"]
    fill(first)
    for n in range(1, OPEN_FILES + 5):
        assert lexicons[str(n)].version() is None
    assert lexicons["0"] is not first
    assert ids(lexicons["0"], "apples") == [1]
    lexicons.close()


def write(path: Path, first: int) -> None:
    lexicon = Lexicon(path)
    for n in range(first, first + 20):
        lexicon.add(1, {f"d{n}": "r"}, [(n, f"d{n}", f"word{n} common")])
    lexicon.close()


def test_processes_share_a_file(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write, args=(tmp_path / "x.sqlite", n)) for n in (100, 200, 300)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    lexicon = Lexicon(tmp_path / "x.sqlite")
    found = lexicon.search(None, ["common"], 100)
    assert found is not None
    assert len(found[0]) == 60
    lexicon.close()
