"""What of all that could go into a prompt does go in. A pure function of items, pieces and a limit of tokens."""

from collections.abc import Sequence
from typing import Any

import msgspec

from backtalk.core.errors import InvalidRequest
from backtalk.core.text import estimate_tokens
from backtalk.domain.items import CLIENT_CALLS, OUTPUTS, Item, is_user_message, parts_field, text_of
from backtalk.domain.turn import Piece

ITEM_OVERHEAD = 4
"""Tokens that a message costs beyond its text."""
IMAGE = 800
"""Roughly what an image costs."""
_FILE_BYTES = 24
_MOST_OF_A_FILE = 20_000
"""A file that the model reads itself costs a token for each so many characters of base64, and no more than that: a guess.
Whether it fits is its server's to say."""


class Fitted(msgspec.Struct):
    """What goes in, and what was cut: items by id, pieces as they came."""

    items: list[Item]
    pieces: list[Piece]
    cut_items: list[Item]
    cut_pieces: list[Piece]
    tokens: int


def fit(
    items: Sequence[Item],
    pieces: Sequence[Piece],
    *,
    instructions: str | None,
    limit: int,
    truncate: bool,
) -> Fitted:
    """Fits a talk into `limit` tokens, then pieces by score into what is left.

    Where the talk alone is too long, it is dropped from its beginning (`truncate`) or InvalidRequest raised. The user's
    last message always stays, and so do system and developer messages; a call and its output go together.
    """
    kept = list(items)
    used = estimate_tokens(instructions or "")
    total = used + sum(map(tokens_of, kept))
    if total > limit:
        shorter = _drop_oldest(kept, limit - used) if truncate else None
        if shorter is None:
            raise _too_long(total, limit, truncate)
        kept = shorter
    used += sum(map(tokens_of, kept))
    taken, left = _take_pieces(pieces, limit - used)
    kept_ids = {item["id"] for item in kept}
    dropped = [item for item in items if item["id"] not in kept_ids]
    return Fitted(kept, taken, dropped, left, used + sum(piece.tokens for piece in taken))


def tokens_of(item: Item) -> int:
    """Roughly what an item costs in a prompt."""
    written = str(item.get(CLIENT_CALLS.get(item.get("type", ""), ""), ""))
    return ITEM_OVERHEAD + estimate_tokens(text_of(item) + written + _results_text(item)) + _cost_of_files(item)


def _cost_of_files(item: Item) -> int:
    parts: Any = item.get(parts_field(item))
    if not isinstance(parts, list) or item.get("type") not in ("message", *OUTPUTS):
        return 0
    return sum(_cost_of_part(part) for part in parts if isinstance(part, dict) and "text" not in part)


def _cost_of_part(part: dict[str, Any]) -> int:
    if part.get("type") == "input_image":
        return IMAGE
    return min(len(part.get("file_data") or "") // _FILE_BYTES, _MOST_OF_A_FILE)


def _results_text(item: Item) -> str:
    results: list[dict[str, Any]] = (item.get("results") or []) if item.get("type") == "file_search_call" else []
    return "\n".join(str(result.get("text", "")) for result in results)


def _drop_oldest(items: list[Item], room: int) -> list[Item] | None:
    """The longest rest that fits: from a user message on, else from any place behind the last one that parts no call
    from its output. None where there is none."""
    last = max((i for i, item in enumerate(items) if is_user_message(item)), default=-1)
    costs = [tokens_of(item) for item in items]
    whole = _whole_from(items)
    rest, pinned = sum(costs), 0
    for start, item in enumerate(items):
        if (is_user_message(item) or start > last) and pinned + rest <= room and whole[start]:
            return [old for i, old in enumerate(items[:start]) if i == last or _is_fixed(old)] + items[start:]
        rest -= costs[start]
        if start == last or _is_fixed(item):
            pinned += costs[start]
    return None


def _whole_from(items: Sequence[Item]) -> list[bool]:
    """For each item, whether no output stands without its call from there on."""
    whole, waiting = [True] * len(items), set[str]()
    for i in range(len(items) - 1, -1, -1):
        if items[i].get("type") in OUTPUTS:
            waiting.add(items[i]["call_id"])
        elif items[i].get("type") in CLIENT_CALLS:
            waiting.discard(items[i]["call_id"])
        whole[i] = not waiting
    return whole


def _is_fixed(item: Item) -> bool:
    return item.get("role") in ("system", "developer")


def _take_pieces(pieces: Sequence[Piece], room: int) -> tuple[list[Piece], list[Piece]]:
    taken, left = [], []
    for piece in sorted(pieces, key=lambda piece: -(piece.score or 0)):
        cost = piece.tokens or estimate_tokens(piece.text)
        if cost <= room:
            room -= cost
            taken.append(msgspec.structs.replace(piece, tokens=cost))
        else:
            left.append(piece)
    return taken, left


def _too_long(tokens: int, limit: int, truncate: bool) -> InvalidRequest:
    advice = "Shorten the last message." if truncate else "Shorten the input, or set truncation to 'auto'."
    return InvalidRequest(
        f"This conversation is about {tokens:,} tokens long, more than the {limit:,} that fit into the model's context. "
        f"{advice}",
        param="input",
        code="context_length_exceeded",
    )
