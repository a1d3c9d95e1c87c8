"""The tree that a conversation's items form, walked in memory. No I/O."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

Tree: TypeAlias = dict[str, str | None]
"""The id of each item's parent, None at a root. In the order of positions: a parent comes before its children."""


def grow(rows: Iterable[tuple[str, str | None]], outside: Mapping[str, str | None]) -> Tree:
    """A tree of (id, parent's id) in the order of positions.

    `outside` has the parents of items that were taken out of the conversation: what followed on one of those follows on
    what was before it. Where nothing is known of a parent, the item before takes its place.
    """
    tree: Tree = {}
    before: str | None = None
    for item_id, parent in rows:
        while parent is not None and parent not in tree:
            parent = outside.get(parent, before)
        tree[item_id] = parent
        before = item_id
    return tree


def path(tree: Tree, leaf_id: str | None) -> list[str]:
    """The ids from the root to a leaf."""
    found = []
    while leaf_id is not None:
        found.append(leaf_id)
        leaf_id = tree[leaf_id]
    return found[::-1]


def newest(tree: Tree) -> str | None:
    """The leaf of the default branch: what was appended last."""
    return next(reversed(tree), None)


def newest_below(tree: Tree, item_id: str) -> str:
    """The leaf that was appended last beneath an item; the item itself where nothing follows on it."""
    below = [item_id]
    seen = {item_id}
    for child, parent in tree.items():
        if parent in seen:
            seen.add(child)
            below.append(child)
    return below[-1]
