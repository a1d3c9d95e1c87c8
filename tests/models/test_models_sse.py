import random

import pytest

from backtalk.models.sse import EventParser


class TooLarge(Exception):
    pass


def parsed(*reads: bytes, limit: int = 1 << 20) -> list[bytes]:
    parser = EventParser(TooLarge, limit)
    return [event for read in reads for event in parser.feed(read)] + parser.finish()


TRANSCRIPT = (
    b'\xef\xbb\xbfdata: {"a": 1}\n\n'
    b": a comment\n\n"
    b"event: x\nid: 7\nretry: 10\ndata: one\ndata: two\n\n"
    b"data:no space\n\n\n\n"
    b"data\n\n" + "data: 日本語 🙂 é\n\n".encode() + b"nonsense\ndata:  kept space\n\n"
    b"data: [DONE]"
)
EVENTS = [b'{"a": 1}', b"one\ntwo", b"no space", b"", "日本語 🙂 é".encode(), b" kept space", b"[DONE]"]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_every_cut_in_two_gives_the_same_events(newline: bytes) -> None:
    stream = TRANSCRIPT.replace(b"\n", newline)
    for cut in range(len(stream) + 1):
        assert parsed(stream[:cut], stream[cut:]) == EVENTS, cut


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_any_cut_into_many_pieces_gives_the_same_events(newline: bytes) -> None:
    stream = TRANSCRIPT.replace(b"\n", newline)
    for seed in range(300):
        chance = random.Random(seed)
        cuts = sorted(chance.sample(range(len(stream)), chance.randint(1, len(stream) // 2)))
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        assert parsed(*pieces) == EVENTS, seed
    assert parsed(*(stream[i : i + 1] for i in range(len(stream)))) == EVENTS


def test_mixed_newlines_are_each_one_newline() -> None:
    assert parsed(b"data: a\r\ndata: b\rdata: c\n\r\ndata: d\r\r") == [b"a\nb\nc", b"d"]


def test_events_are_given_as_soon_as_their_blank_line_comes() -> None:
    parser = EventParser(TooLarge)
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"\ndata: b") == [b"a"]
    assert parser.feed(b"\r\n\r") == [b"b"]
    assert parser.feed(b"\ndata: c\n\n") == [b"c"]
    assert parser.finish() == []


def test_a_bom_in_the_middle_is_no_bom() -> None:
    assert parsed(b"data: a\n\n", b"\xef\xbb\xbfdata: b\n\n", b"data: c\n\n") == [b"a", b"c"]


@pytest.mark.parametrize("piece", [b"x" * 100, b"data: xxxxxxxxxxxxxxxx\n"], ids=["one line", "many lines"])
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    parser = EventParser(TooLarge, limit=1000)
    with pytest.raises(TooLarge):
        for _ in range(100):
            parser.feed(piece)


def test_the_limit_is_for_one_event_not_for_the_stream() -> None:
    parser = EventParser(TooLarge, limit=1000)
    for _ in range(100):
        assert parser.feed(b"data: " + b"x" * 400 + b"\n\ndata: ") == [b"x" * 400]
        assert parser.feed(b"y\n\n") == [b"y"]
