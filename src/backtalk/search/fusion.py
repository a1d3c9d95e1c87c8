"""Making one ranking out of several. Pure functions over {chunk id: score}."""

from collections.abc import Iterable, Mapping

TEXT_WEIGHT = 0.7
"""How much the words count beside the meaning. Static vectors are a help, BM25 carries."""


def fuse(text: Mapping[int, float], vector: Mapping[int, float], weight: float = TEXT_WEIGHT) -> dict[int, float]:
    """The weighted sum of both, each scaled to 0..1 of its best. What only one of them found has 0 in the other."""
    text, vector = _scaled(text), _scaled(vector)
    return {
        found: weight * text.get(found, 0.0) + (1 - weight) * vector.get(found, 0.0)
        for found in text.keys() | vector.keys()
    }


def merge(rankings: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """Several queries' scores as one: the best of each chunk."""
    merged: dict[int, float] = {}
    for ranking in rankings:
        for found, score in ranking.items():
            merged[found] = max(score, merged.get(found, 0.0))
    return merged


def best(scores: Mapping[int, float], limit: int) -> list[tuple[int, float]]:
    """The best first; of equals the older."""
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))[:limit]


def _scaled(scores: Mapping[int, float]) -> dict[int, float]:
    """Scores as shares of the best one. Zero is the floor: no word in common, a right angle or more."""
    top = max(scores.values(), default=0.0)
    return {found: max(score, 0.0) / top for found, score in scores.items()} if top > 0 else {}
