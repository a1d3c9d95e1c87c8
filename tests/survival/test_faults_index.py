"""Row 29: the file of the search index cut off anywhere, or with a flipped bit. The rows are the truth: it is made again."""

import random
from pathlib import Path

from backtalk.search.lexical import Lexicon

CUTS = 50
FLIPS = 100
QUERIES = ["gate 77", "code 700"]
TEXTS = [(number, "a", f"The gate number {number} opens with the code {number * 7}.") for number in range(200)]


def fill(lexicon: Lexicon) -> None:
    lexicon.add(1, {"a": "r1"}, TEXTS)
    lexicon.settle(1, {"a"})


def filled(path: Path) -> list[dict[int, float]] | None:
    """A closed file, and what it answers."""
    lexicon = Lexicon(path)
    fill(lexicon)
    found = lexicon.search(1, QUERIES, 10)
    lexicon.close()
    return found


def is_made_again(path: Path, wanted: list[dict[int, float]] | None) -> bool:
    """Opens it, makes it again if it says that it is empty, and holds it to its answers."""
    lexicon = Lexicon(path)
    empty = lexicon.search(1, QUERIES, 10) is None
    if empty:
        fill(lexicon)
    assert lexicon.search(1, QUERIES, 10) == wanted
    lexicon.close()
    return empty


def test_row_29_an_index_cut_off_anywhere_is_made_again_or_right(tmp_path: Path) -> None:
    """Also one that a crash left open, without a seal: only its free space may be cut off unnoticed."""
    path, seal = tmp_path / "x.sqlite", tmp_path / "x.sqlite.seal"
    wanted = filled(path)
    whole = path.read_bytes()
    made_again = 0
    for cut in range(CUTS):
        path.write_bytes(whole[: len(whole) * cut // CUTS])
        seal.unlink()
        made_again += is_made_again(path, wanted)
    assert made_again > CUTS * 0.9


def test_row_29_a_flipped_bit_anywhere_in_an_index_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    wanted = filled(path)
    chance = random.Random(29)
    for _ in range(FLIPS):
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        assert is_made_again(path, wanted)
    assert not is_made_again(path, wanted)  # one that is whole stays
