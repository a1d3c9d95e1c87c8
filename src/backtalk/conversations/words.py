"""Text of conversations as it is searched, and as it makes titles. No I/O."""

import unicodedata
from collections.abc import Iterable

from backtalk.domain.items import Item, is_user_message, text_of

MOST = 20_000
"""Characters of a message that are searched."""
TITLE = 60
_SAID = ("user", "assistant")


def fold(text: str) -> str:
    """Text in the one form that is compared: databases fold the case of ASCII only, or not at all."""
    plain = unicodedata.normalize("NFKC", text[:MOST].replace("\0", " "))
    return unicodedata.normalize("NFKC", plain.casefold())[:MOST]


def words_of(item: Item) -> str | None:
    """What an item is found by; None for what nobody said."""
    if item.get("type") != "message" or item.get("role") not in _SAID:
        return None
    return fold(text_of(item)) or None


def terms(query: str) -> list[str]:
    """The words that a text must contain to be found. Those that are in another one need not be looked for."""
    found: list[str] = []
    for word in sorted(set(fold(query).split()), key=lambda word: (-len(word), word)):
        if not any(word in longer for longer in found):
            found.append(word)
    return found


def title_of(items: Iterable[Item]) -> str | None:
    """A title made of the first line of the first user message that has text."""
    for item in items:
        if is_user_message(item) and (text := text_of(item).replace("\0", " ").strip()):
            return _cut(" ".join(text[:1000].splitlines()[0].split()))
    return None


def _cut(line: str) -> str:
    """Up to `TITLE` characters, cut at a word's end where there is one in the second half."""
    if len(line) <= TITLE:
        return line
    end = line.rfind(" ", TITLE // 2, TITLE + 1)
    return line[: end if end > 0 else TITLE] + "…"
