"""Cutting a text into overlapping chunks of a number of tokens, at the ends of sentences and paragraphs. Pure."""

import re
from collections.abc import Callable, Sequence

import msgspec

SIZE = 800
OVERLAP = 400
_LATE = 0.75
"""A paragraph's end in the last quarter of a chunk is worth ending it early."""
_LONGEST = 8192
"""Characters that are counted in one go."""

# A sentence with what closes it and the space after it; a line.
_SENTENCE = re.compile(r"""[^\n]*?(?:[.!?…]+["'”’)\]»]*[ \t]+|[。！？；]+[”’」』）]*[ \t]*|\n+|$)""")  # fmt: skip


class Span(msgspec.Struct, frozen=True):
    """From `start` to before `end`, in code points."""

    start: int
    end: int


class _Piece(msgspec.Struct, frozen=True):
    end: int
    tokens: int
    ends_paragraph: bool


def cut(
    text: str,
    count_tokens: Callable[[Sequence[str]], list[int]],
    token_ends: Callable[[str], list[int]],
    size: int = SIZE,
    overlap: int = OVERLAP,
) -> list[Span]:
    """Spans that cover all of `text`, each of at most about `size` tokens and sharing up to `overlap` with the next."""
    pieces = _pieces(text, count_tokens, token_ends, size)
    spans, first = [], 0
    while first < len(pieces):
        after = _fill(pieces, first, size)
        spans.append(Span(pieces[first - 1].end if first else 0, pieces[after - 1].end))
        if after == len(pieces):
            break
        first = _back(pieces, first, after, overlap)
    return spans


def _fill(pieces: Sequence[_Piece], first: int, size: int) -> int:
    """Where the chunk that begins with piece `first` ends: as late as fits, or at a paragraph's end shortly before."""
    tokens, after, paragraph = 0, first, first
    while after < len(pieces) and (after == first or tokens + pieces[after].tokens <= size):
        tokens += pieces[after].tokens
        after += 1
        if pieces[after - 1].ends_paragraph and tokens >= size * _LATE:
            paragraph = after
    return after if after == len(pieces) or paragraph == first else paragraph


def _back(pieces: Sequence[_Piece], first: int, after: int, overlap: int) -> int:
    """Where the next chunk begins: so far back that it shares `overlap` tokens at most, but past `first`."""
    tokens, start = 0, after
    while start - 1 > first and tokens + pieces[start - 1].tokens <= overlap:
        start -= 1
        tokens += pieces[start].tokens
    return start


def _pieces(
    text: str,
    count_tokens: Callable[[Sequence[str]], list[int]],
    token_ends: Callable[[str], list[int]],
    size: int,
) -> list[_Piece]:
    """Sentences with their tokens; those that are too long for a chunk are cut at tokens."""
    ends = _sentence_ends(text)
    sentences = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    pieces: list[_Piece] = []
    start = 0
    for sentence, end, tokens in zip(sentences, ends, count_tokens(sentences), strict=True):
        if tokens > size:
            pieces += _hard_cut(sentence, start, token_ends, max(size // 4, 1))
        else:
            pieces.append(_Piece(end, tokens, sentence.endswith("\n\n")))
        start = end
    return pieces


def _sentence_ends(text: str) -> list[int]:
    ends: list[int] = []
    for match in _SENTENCE.finditer(text):
        last = ends[-1] if ends else 0
        ends += range(last + _LONGEST, match.end(), _LONGEST)
        if match.end() > last:
            ends.append(match.end())
    return ends


def _hard_cut(sentence: str, start: int, token_ends: Callable[[str], list[int]], most: int) -> list[_Piece]:
    """Pieces of `most` tokens, never between two tokens of one character."""
    ends = token_ends(sentence)
    pieces: list[_Piece] = []
    last = 0
    for at in range(most, len(ends) + most, most):
        end = ends[at - 1] if at < len(ends) else len(sentence)
        if end > last:
            pieces.append(_Piece(start + end, min(most, len(ends) - at + most), False))
            last = end
    return pieces
