"""What of all that could go into a prompt does go in. A pure function of items, pieces and a limit of tokens."""

from collections.abc import Sequence
from typing import Any

import msgspec

from backtalk.core.errors import InvalidRequest
from backtalk.core.text import estimate_tokens
from backtalk.domain.items import Item, text_of
from backtalk.domain.turn import Piece

ITEM_OVERHEAD = 4
"""Tokens that a message costs beyond its text."""


class Fitted(msgspec.Struct):
    """What goes in, and what was cut: items by id, pieces as they came."""

    items: list[Item]
    pieces: list[Piece]
    cut_items: list[Item]
    cut_pieces: list[Piece]
    tokens: int


def fit(
    history: Sequence[Item],
    new: Sequence[Item],
    pieces: Sequence[Piece],
    *,
    instructions: str | None,
    limit: int,
    truncate: bool,
) -> Fitted:
    """Fits a turn into `limit` tokens: the new input always, then history, then pieces by score.

    Where the talk alone is too long, history is dropped from its beginning (`truncate`) or InvalidRequest raised.
    """
    used = estimate_tokens(instructions or "") + sum(map(tokens_of, new))
    kept = list(history)
    costs = [tokens_of(item) for item in kept]
    if used + sum(costs) > limit:
        if not truncate or used > limit:
            raise _too_long(used + sum(costs), limit)
        kept = _drop_oldest(kept, costs, limit - used)
    used += sum(map(tokens_of, kept))
    taken, left = _take_pieces(pieces, limit - used)
    kept_ids = {item["id"] for item in kept}
    dropped = [item for item in history if item["id"] not in kept_ids]
    return Fitted([*kept, *new], taken, dropped, left, used + sum(piece.tokens for piece in taken))


def tokens_of(item: Item) -> int:
    """Roughly what an item costs in a prompt."""
    text = text_of(item) + str(item.get("arguments", ""))
    return ITEM_OVERHEAD + estimate_tokens(text + _results_text(item))


def _results_text(item: Item) -> str:
    results: list[dict[str, Any]] = (item.get("results") or []) if item.get("type") == "file_search_call" else []
    return "\n".join(str(result.get("text", "")) for result in results)


def _drop_oldest(items: list[Item], costs: list[int], room: int) -> list[Item]:
    """Cuts at the first user message from which the rest fits, so that calls and their outputs stay together."""
    fixed_costs = [cost if _is_fixed(item) else 0 for item, cost in zip(items, costs, strict=True)]
    rest, fixed_before = sum(costs), 0
    for start, item in enumerate(items):
        if item.get("role") == "user" and fixed_before + rest <= room:
            return [item for item in items[:start] if _is_fixed(item)] + items[start:]
        rest -= costs[start]
        fixed_before += fixed_costs[start]
    return [item for item in items if _is_fixed(item)]


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


def _too_long(tokens: int, limit: int) -> InvalidRequest:
    return InvalidRequest(
        f"This conversation is about {tokens:,} tokens long, more than the {limit:,} that fit into the model's context. "
        "Shorten the input, or set truncation to 'auto'.",
        param="input",
        code="context_length_exceeded",
    )
