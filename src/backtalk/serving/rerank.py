"""How well documents answer a query, by simple means: the words that they share, and how near their vectors are.

It is no cross-encoder: it knows nothing of word order or negation. Scores compare within one answer only.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from backtalk.core.errors import InvalidRequest
from backtalk.search.fusion import TEXT_WEIGHT
from backtalk.search.words import STOPWORDS, indexable

if TYPE_CHECKING:
    from backtalk.search.base import Vectors

LONGEST = 65_536
"""Characters of a document that count."""
_WORD = re.compile(r"\w+")


def texts_of(documents: Sequence[Any]) -> list[str]:
    """The documents' texts. Raises InvalidRequest for what is no text."""
    return [_text_of(document, f"documents[{place}]") for place, document in enumerate(documents)]


def _text_of(document: Any, place: str) -> str:
    if isinstance(document, str):
        return document
    if not isinstance(document, dict):
        raise InvalidRequest(
            f"'{place}' must be a string or an object with a 'text'.", param=place, code="invalid_type"
        )
    if "text" not in document:
        param = f"{place}.text"
        raise InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    if not isinstance(document["text"], str):
        raise InvalidRequest(f"'{place}.text' must be a string.", param=f"{place}.text", code="invalid_type")
    text: str = document["text"]
    return text


def scores(query: str, documents: Sequence[str], vectors: "Vectors") -> list[float]:
    """0..1 for each document. `vectors` has the query's row first, then one for each document, all of length 1."""
    near = (vectors[1:] @ vectors[0]).clip(0, 1).tolist()
    shared = _overlaps(query, documents)
    if shared is None:
        return [round(cosine, 6) for cosine in near]
    mixed = zip(shared, near, strict=True)
    return [round(TEXT_WEIGHT * overlap + (1 - TEXT_WEIGHT) * cosine, 6) for overlap, cosine in mixed]


def ranked(scored: Sequence[float], limit: int | None) -> list[int]:
    """The places of the best, the best first; of equals the earlier."""
    return sorted(range(len(scored)), key=lambda place: -scored[place])[:limit]


def _overlaps(query: str, documents: Sequence[str]) -> list[float] | None:
    """What share of the query's words each has, rare words weighing more; None for a query without a word."""
    wanted = _words(query)
    wanted = wanted - STOPWORDS or wanted
    if not wanted:
        return None
    found = [wanted & _words(document) for document in documents]
    weights = _weights(wanted, found)
    whole = sum(weights.values())
    return [sum(weights[word] for word in words) / whole for words in found]


def _weights(wanted: Iterable[str], found: Sequence[set[str]]) -> dict[str, float]:
    """The inverse document frequency, as BM25 has it."""
    having = Counter(word for words in found for word in words)
    return {word: math.log1p((len(found) - having[word] + 0.5) / (having[word] + 0.5)) for word in wanted}


def _words(text: str) -> set[str]:
    return set(_WORD.findall(indexable(text[:LONGEST]).casefold()))
