"""The bytes of a stream as networks cut them and servers write them: what they say must stay the same."""

from collections.abc import Iterator

BOM = b"\xef\xbb\xbf"


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """The reads that `data` may come in: two of them, cut anywhere, and one for each byte."""
    yield from ([data[:at], data[at:]] for at in range(1, len(data)))
    yield [data[at : at + 1] for at in range(len(data))]
    yield [data]


def manners(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The ways to write the same stream, each with a name. `data` has LF line ends, and ends with `[DONE]` or an event."""
    busy = b": hello\nid: 7\nretry: 100\n\n" + data.replace(b"\n\n", b"\n\n: ping\nid: 8\nevent: chunk\n")
    yield "plain", data
    yield "crlf", data.replace(b"\n", b"\r\n")
    yield "cr", data.replace(b"\n", b"\r")
    yield "comments", busy
    yield "bom and crlf", BOM + busy.replace(b"\n", b"\r\n")
    yield "no last blank line", data.rstrip(b"\n")
    yield "no done", data.removesuffix(b"data: [DONE]\n\n")
