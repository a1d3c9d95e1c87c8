"""Text as the full-text index sees it.

Words are left to SQLite's tokenizer. Scripts that are written without spaces are cut into overlapping pairs of
characters, in text and query alike, with a last single one, so that every character begins a term.
"""

import re
import unicodedata
from collections.abc import Iterator

TOKENIZER = "porter unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'"
"""FTS5's: marks belong to words, or the vowels of Indic scripts would end them."""

MOST_TERMS = 256
_COMMON = """a about above after again against all am an and any are as at be because been before being below between both but
    by can could did do does doing down during each few for from further had has have having he her here hers herself
    him himself his how i if in into is it its itself just me more most my myself no nor not now of off on once only or
    other our ours ourselves out over own same she should so some such than that the their theirs them themselves then
    there these they this those through to too under until up very was we were what when where which while who whom why
    will with would you your yours yourself yourselves"""
STOPWORDS = frozenset(_COMMON.split())
# Thai and Lao, Burmese, Khmer; kana and their kin; Han with its extensions; Hangul; compatibility forms.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]+"
)


def indexable(text: str) -> str:
    """What is handed to FTS5 for `text`."""
    return _UNSPACED.sub(lambda run: f" {' '.join(_pairs(run[0]))} {run[0][-1]} ", text.replace("\0", " "))


def match(query: str) -> str | None:
    """A MATCH expression for any of the words of `query`, each in quotes; None when it has no word."""
    terms = dict.fromkeys(_terms(query))
    telling = [term for term in terms if term.casefold() not in STOPWORDS] or list(terms)
    return " OR ".join(map(_quoted, telling[:MOST_TERMS])) or None


def _terms(query: str) -> Iterator[str]:
    words = "".join(char if _is_of_a_word(char) else " " for char in query[:65_536])
    for word in words.split():
        rest = 0
        for run in _UNSPACED.finditer(word):
            yield from filter(None, (word[rest : run.start()],))
            yield from _pairs(run[0]) or [run[0]]
            rest = run.end()
        yield from filter(None, (word[rest:],))


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)]


def _is_of_a_word(char: str) -> bool:
    return unicodedata.category(char)[0] in "LNM" or unicodedata.category(char) == "Co"


def _quoted(term: str) -> str:
    """A lone character of an unspaced script stands for all pairs that it begins. `term` holds no quote."""
    return f'"{term}"*' if len(term) == 1 and _UNSPACED.match(term) else f'"{term}"'
