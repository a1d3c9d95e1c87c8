"""Fusion and merging."""

from backtalk.search.fusion import best, fuse, merge


def test_scores_are_shares_of_the_best() -> None:
    fused = fuse({1: 10.0, 2: 5.0}, {1: 0.4, 3: 0.8}, 0.7)
    assert {chunk: round(score, 6) for chunk, score in fused.items()} == {1: 0.85, 2: 0.35, 3: 0.3}


def test_all_scores_lie_between_0_and_1() -> None:
    fused = fuse({1: 1e-6, 2: 123.0}, {1: -0.9, 2: 0.1, 3: -1.0}, 0.65)
    assert fused[2] == 1.0
    assert all(0 <= score <= 1 for score in fused.values())


def test_one_side_may_be_empty() -> None:
    assert fuse({}, {1: 0.5}, 0.7) == {1: 0.30000000000000004}
    assert fuse({1: 2.0}, {}, 0.7) == {1: 0.7}
    assert fuse({}, {}, 0.7) == {}


def test_the_weight_decides() -> None:
    text, vector = {1: 1.0, 2: 0.1}, {1: 0.1, 2: 1.0}
    assert best(fuse(text, vector, 0.9), 1)[0][0] == 1
    assert best(fuse(text, vector, 0.1), 1)[0][0] == 2


def test_of_several_queries_the_best_counts() -> None:
    assert merge([{1: 0.2, 2: 0.9}, {1: 0.5}]) == {1: 0.5, 2: 0.9}
    assert best({5: 0.5, 3: 0.5, 9: 0.7}, 2) == [(9, 0.7), (3, 0.5)]
