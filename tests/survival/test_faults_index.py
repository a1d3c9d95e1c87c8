"""Row 29: the file of the search index cut off anywhere, or gone. The rows are the truth: it is made again."""

from pathlib import Path

from backtalk.search.lexical import Lexicon

CUTS = 50
TEXTS = [(number, "a", f"The gate number {number} opens with the code {number * 7}.") for number in range(200)]


def fill(lexicon: Lexicon) -> None:
    lexicon.add(1, {"a": "r1"}, TEXTS)
    lexicon.settle(1, {"a"})


def test_row_29_an_index_cut_off_anywhere_is_made_again_or_right(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    first = Lexicon(path)
    fill(first)
    wanted = first.search(1, ["gate 77", "code 700"], 10)
    first.close()
    whole = path.read_bytes()
    made_again = 0
    for cut in range(CUTS):
        path.write_bytes(whole[: len(whole) * cut // CUTS])
        lexicon = Lexicon(path)
        if lexicon.search(1, ["gate 77", "code 700"], 10) is None:
            made_again += 1
            fill(lexicon)
        assert lexicon.search(1, ["gate 77", "code 700"], 10) == wanted
        lexicon.close()
    assert made_again > CUTS * 0.9  # only free space may be cut off unnoticed
