"""Server-sent events out of raw network reads, by the WHATWG rules, without a step per byte.

A data line is a few hundred bytes and a read holds a few of them, so splitting lines is all the work there is. Nothing
is looked at twice: pieces of an unfinished line are kept apart until its end comes.
"""

from collections.abc import Callable

MAX_EVENT = 16 * 2**20
"""Bytes of one event that are kept; a server that sends more is broken or hostile."""


class EventParser:
    """Finds the data of events in a stream that arrives in any pieces: CR, LF or CRLF, comments, BOM, split UTF-8.

    `too_large` makes the error that is raised beyond `limit` bytes in one event.
    """

    def __init__(self, too_large: Callable[[], Exception], limit: int = MAX_EVENT) -> None:
        self._too_large = too_large
        self._limit = limit
        self._line: list[bytes] = []  # pieces of the unfinished line
        self._line_size = 0
        self._data: list[bytes] = []  # data lines of the unfinished event
        self._data_size = 0
        self._after_cr = False
        self._first = True

    def feed(self, read: bytes) -> list[bytes]:
        """The data of every event that `read` finishes."""
        if read[:6] == b"data: " and not self._line and not self._data and (whole := self._whole(read)):
            return whole
        if self._after_cr or b"\r" in read:
            read = self._plain_newlines(read)
        head, newline, tail = read.rpartition(b"\n")
        events = self._events(self._lines(head)) if newline else []
        if tail:
            self._line.append(tail)
            self._line_size += len(tail)
        if self._line_size + self._data_size > self._limit:
            raise self._too_large()
        return events

    def _whole(self, read: bytes) -> list[bytes] | None:
        """The data of a read that is nothing but whole events of one plain line each, as nearly every read is."""
        if read[-2:] != b"\n\n" or b"\r" in read or len(read) > self._limit:
            return None
        events = read[6:-2].split(b"\n\ndata: ")
        if read.count(b"\n") != 2 * len(events):
            return None
        self._first = self._after_cr = False
        return events

    def finish(self) -> list[bytes]:
        """The event that the end of the stream finishes, when its blank line is missing."""
        return self.feed(b"\n\n") if self._line or self._data else []

    def _lines(self, head: bytes) -> list[bytes]:
        lines = head.split(b"\n")
        if self._line:
            lines[0] = b"".join([*self._line, lines[0]])
            self._line.clear()
            self._line_size = 0
        if self._first:
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
            self._first = False
        return lines

    def _events(self, lines: list[bytes]) -> list[bytes]:
        events = []
        data = self._data
        for line in lines:
            if line.startswith(b"data: "):
                data.append(line[6:])
            elif line.startswith(b"data:") or line == b"data":
                data.append(line[5:])
            else:
                if not line and data:
                    events.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
                    self._data_size = 0
                continue
            self._data_size += len(line)
        return events

    def _plain_newlines(self, read: bytes) -> bytes:
        """CR and CRLF as LF. A CR at the end of a read counts at once; an LF that then follows is its second half."""
        if self._after_cr:
            read = read.removeprefix(b"\n")
        self._after_cr = read.endswith(b"\r")
        return read.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
