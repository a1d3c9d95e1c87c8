"""Finding the sentences that answer a question: word overlap, weighted by how rare a word is in the text at hand."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from backtalk.models.words import CJK

_WORD = re.compile(rf"[{CJK}]+|[^\W_{CJK}]+(?:['’.][^\W_{CJK}]+)*")
_IS_CJK = re.compile(f"[{CJK}]")
_BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*#|>]|\d+[.)]\s))")
_END = re.compile(r"(?<=[。！？])|(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\W_a-z])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|vs|etc|e\.g|i\.e|cf|ca|approx|Inc|Ltd|Co|Gen|Col|Lt|Rev|Fig))\.$"
)
_SUFFIXES = ("ations", "ation", "ingly", "ings", "edly", "ing", "ies", "ed", "es", "ly", "s", "e", "y")
_COMMON = """a about after all also am an and any are as at be because been before being between both but by can could did do
    does doing done during each few for from further had has have having he her here hers him his how i if in into is it
    its itself just me might more most much many must my no nor not now of off on once only or other our out over own
    same she should so some such than that the their them then there these they this those through to too under until up
    us very was we were what when where which while who whom whose why will with would you your tell give please
    called know explain describe say said"""
_STOPWORDS = frozenset(_COMMON.split())
_KINDS = (
    (
        re.compile(
            r"(?:how (?:many|much|old|long|far|tall|large|big|often)|when|what (?:year|date|percent|time))\b", re.I
        ),
        r"\d",
    ),
    (re.compile(r"(?:who|whom|whose)\b", re.I), r"(?<=\w )[A-Z]"),
)
"""What an answer to a kind of question holds: a number, or a name."""
_LONGEST = 420
_TRUST = 1.0
"""How much the search's opinion of a passage counts beside the words of its sentences."""
_WORTH = 0.2
"""The share of the question that a further quote must add."""


class Sentence(msgspec.Struct, frozen=True):
    """A sentence and the passage (its number in the list) that it stands in."""

    text: str
    passage: int
    position: int
    terms: frozenset[str]


def sentences(text: str) -> Iterator[str]:
    """The sentences of `text`, whitespace made single. Blank lines, list items and headings end one too."""
    for block in _BLOCK.split(text):
        flat = " ".join(block.split())
        start = 0
        for end in _END.finditer(flat):
            if _ABBREVIATION.search(flat[start : end.start()]):
                continue
            yield flat[start : end.end()].strip()
            start = end.end()
        if flat[start:].strip():
            yield flat[start:].strip()


def terms(text: str) -> list[str]:
    """What two texts are compared by: stems without stopwords, bigrams of CJK characters."""
    found = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).lower()):
        if _IS_CJK.match(word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        elif word not in _STOPWORDS:
            found.append(_stem(_fold(word)))
    return found


def quotes(
    question: str, context: str, passages: Sequence[str], scores: Sequence[float], most: int = 3
) -> list[Sentence]:
    """The one to `most` sentences that answer `question` best, the best first.

    `context` is the question before, for a follow-up that leaves out what it is about. `scores` are the search's, best
    first. The first quote is from the first passage unless another one is clearly better.
    """
    known = [
        Sentence(text, number, position, frozenset(terms(text)))
        for number, passage in enumerate(passages)
        for position, text in enumerate(sentences(passage))
    ]
    if not known:
        return []
    weights = _weights(question, context, [sentence.terms for sentence in known])
    wanted = next((answer for kind, answer in _KINDS if kind.match(question.strip())), None)
    best = max(scores, default=0.0) or 1.0

    def rank(sentence: Sentence) -> float:
        overlap = sum(weights.get(term, 0.0) for term in sentence.terms)
        kind = 0.12 if overlap and wanted and re.search(wanted, sentence.text) else 0.0
        length = 0.04 * min(len(sentence.text) / _LONGEST, 2.0)
        return overlap + kind - length

    first = max(known, key=lambda s: rank(s) + _TRUST * scores[s.passage] / best + (0.001 if s.passage == 0 else 0))
    return [first, *_others(first, known, weights, most - 1)]


def fits(question: str, texts: Iterable[str], least: float = 0.5) -> str | None:
    """The sentence that holds at least that share of what is asked for, the latest of equals."""
    known = [sentence for text in texts for sentence in sentences(text) if not sentence.endswith(("?", "？"))]
    weights = _weights(question, "", [frozenset(terms(sentence)) for sentence in known])
    shares = [sum(weights.get(term, 0.0) for term in set(terms(sentence))) for sentence in known]
    best = max(range(len(known)), key=lambda i: (shares[i], i), default=None)
    return known[best] if best is not None and shares[best] >= least else None


def shortened(sentence: str) -> str:
    """A sentence cut at a word when it is too long to quote."""
    return sentence if len(sentence) <= _LONGEST else sentence[:_LONGEST].rsplit(" ", 1)[0] + " …"


def _others(first: Sentence, known: list[Sentence], weights: dict[str, float], most: int) -> list[Sentence]:
    """Further sentences that say something about what the first one leaves open."""
    chosen: list[Sentence] = []
    open_terms = {term: weight for term, weight in weights.items() if term not in first.terms}
    while len(chosen) < most:
        gains = [(sum(open_terms.get(term, 0.0) for term in s.terms), -s.passage, -s.position) for s in known]
        gain, passage, position = max(gains)
        if gain < _WORTH:
            break
        added = next(s for s in known if (-s.passage, -s.position) == (passage, position))
        chosen.append(added)
        open_terms = {term: weight for term, weight in open_terms.items() if term not in added.terms}
    return chosen


def _weights(question: str, context: str, known: Sequence[frozenset[str]]) -> dict[str, float]:
    """How much each term of the question counts, in all 1. Rare terms count most; those of `context` a third."""
    counts = Counter(term for one in known for term in one)
    asked = dict.fromkeys(terms(context), 0.3) | dict.fromkeys(terms(question), 1.0)
    raw = {term: part * math.log(1 + len(known) / (counts[term] or 0.5)) for term, part in asked.items()}
    total = sum(raw.values()) or 1.0
    return {term: weight / total for term, weight in raw.items()}


def _fold(word: str) -> str:
    if word.isascii():
        return word
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))


def _stem(word: str) -> str:
    word = word.removesuffix("'s").removesuffix("’s")
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word
