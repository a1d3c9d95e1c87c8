"""Cutting texts into chunks."""

import random
from itertools import pairwise

import pytest

from backtalk.retrieval.chunk import Span, cut
from backtalk.search.wordllama import WordLlama

LLAMA = WordLlama()


def spans(text: str, size: int = 100, overlap: int = 50) -> list[Span]:
    return cut(text, LLAMA.count_tokens, LLAMA.token_ends, size, overlap)


def sentences(number: int, seed: int = 1) -> str:
    chance = random.Random(seed)
    words = ["river", "mountain", "stone", "light", "winter", "engine", "paper", "music", "garden", "silver"]
    made = []
    for n in range(number):
        made.append(" ".join(chance.choices(words, k=chance.randint(3, 20))).capitalize() + ".")
        made.append("\n\n" if n % 5 == 4 else " ")
    return "".join(made).strip()


TEXTS = {
    "sentences": sentences(200),
    "one line without a full stop": "word " * 3000,
    "one word": "x" * 20_000,
    "chinese": "黑豹队的防守只丢了三百零八分，在联赛中排名第六。" * 100,
    "emoji": "🦙🧊" * 2000,
    "newlines": "\n" * 50 + "a\n" * 2000,
    "code": "def f(x):\n    return x + 1\n\n\n" * 300,
    "thai": "ภาษาไทยเป็นภาษาที่มีระดับเสียง" * 200,
}


@pytest.mark.parametrize("name", TEXTS)
def test_chunks_cover_the_text_and_fit(name: str) -> None:
    text = TEXTS[name]
    made = spans(text)
    assert made[0].start == 0
    assert made[-1].end == len(text)
    assert len(made) > 1
    for one, other in pairwise(made):
        assert one.start < other.start <= one.end < other.end
    counts = LLAMA.count_tokens([text[span.start : span.end] for span in made])
    assert max(counts) <= 110


def test_chunks_share_about_what_was_asked_for() -> None:
    text = TEXTS["sentences"]
    made = spans(text)
    shared = [text[other.start : one.end] for one, other in pairwise(made)]
    counts = LLAMA.count_tokens(shared)
    assert max(counts) <= 55
    assert sum(counts) / len(counts) > 25
    without = spans(text, overlap=0)
    assert all(one.end == other.start for one, other in pairwise(without))


def test_chunks_end_where_sentences_do() -> None:
    text = TEXTS["sentences"]
    assert all(text[span.start : span.end].rstrip().endswith(".") for span in spans(text))
    assert all(text[span.start].isupper() for span in spans(text))


def test_a_short_text_is_one_chunk() -> None:
    assert spans("Short. But two sentences.\n\nAnd two paragraphs.") == [Span(0, 46)]


def test_defaults_are_800_and_400() -> None:
    text = sentences(400)
    made = cut(text, LLAMA.count_tokens, LLAMA.token_ends)
    counts = LLAMA.count_tokens([text[span.start : span.end] for span in made])
    assert 500 < max(counts) <= 810
