"""Exact vector search."""

import numpy as np

from backtalk.search.base import VECTOR_TYPE
from backtalk.search.vectors import Matrices, Matrix


def row(id_: int, doc: str, *values: float) -> tuple[int, str, bytes]:
    return id_, doc, np.array(values, dtype=VECTOR_TYPE).tobytes()


def query(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


ROWS = [row(1, "a", 1, 0), row(2, "a", 0, 1), row(3, "b", 0.6, 0.8)]


def test_nearest_first() -> None:
    matrix = Matrix(2).updated(1, {"a": "r", "b": "r"}, ROWS)
    found = matrix.search(query(1, 0), 2)
    assert list(found[0]) == [1, 3]
    assert found[0][1] == 1.0
    assert abs(found[0][3] - 0.6) < 1e-3


def test_documents_are_sifted_before_the_limit() -> None:
    matrix = Matrix(2).updated(1, {"a": "r", "b": "r"}, ROWS)
    assert list(matrix.search(query(1, 0), 1, ["b"])[0]) == [3]
    assert matrix.search(query(1, 0), 5, [])[0] == {}
    assert matrix.search(query(1, 0), 5, ["unknown"])[0] == {}


def test_empty() -> None:
    assert Matrix(2).search(query(1, 0), 5) == [{}]
    assert Matrix(2).updated(1, {}, []).search(query(1, 0), 5, ["a"]) == [{}]


def test_only_what_changed_is_loaded() -> None:
    matrix = Matrix(2).updated(1, {"a": "r1", "b": "r1"}, ROWS)
    docs = {"c": "r1", "b": "r1", "a": "r2"}
    assert sorted(matrix.missing(docs)) == ["a", "c"]
    newer = matrix.updated(2, docs, [row(7, "a", -1, 0), row(8, "c", 0.8, 0.6)])
    assert newer.version == 2
    assert list(newer.search(query(1, 0), 9)[0]) == [8, 3, 7]
    assert list(newer.search(query(1, 0), 9, ["b"])[0]) == [3]
    gone = newer.updated(3, {"c": "r1"}, [])
    assert list(gone.search(query(1, 0), 9)[0]) == [8]
    assert list(matrix.search(query(1, 0), 9)[0]) == [1, 3, 2]


def test_vectors_of_another_model_are_left_out() -> None:
    matrix = Matrix(2).updated(1, {"a": "r"}, [row(1, "a", 1, 0), row(2, "a", 1, 0, 0), row(3, "x", 1, 0)])
    assert list(matrix.search(query(1, 0), 9)[0]) == [1]


def test_the_cache_has_a_cap() -> None:
    matrices = Matrices(2, most_bytes=1)
    for scope in ("one", "two"):
        matrices.put(scope, Matrix(2).updated(1, {"a": "r"}, ROWS[:2]))
    assert (matrices.get("one").version, matrices.get("two").version) == (-1, 1)
    matrices.drop("two")
    assert matrices.get("two").version == -1
