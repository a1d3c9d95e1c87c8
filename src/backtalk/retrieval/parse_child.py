"""The process that opens strangers' files: `python -m backtalk.retrieval.parse_child BYTES`.

Reads requests from stdin, a JSON line for each: `{"path", "filename", "cpu"}`. Answers on stdout: a JSON line with
`length`, then so many bytes of UTF-8; or one with `code` and `message`. Ends with its stdin. The argument is the memory that it may use, in bytes.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

from backtalk.retrieval.formats import Unreadable, read


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints must not look like an answer
    _limit("RLIMIT_AS", int(sys.argv[1]))
    _limit("RLIMIT_FSIZE", 0)
    _limit("RLIMIT_CORE", 0)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit("RLIMIT_CPU", int(sum(os.times()[:2])) + 1 + request["cpu"])
        if not _answer(out, request):
            return


def _answer(out: BinaryIO, request: dict[str, Any]) -> bool:
    """Whether the process is fit for another file."""
    fit = True
    try:
        reply, body = _parse(request)
    except Unreadable as error:
        reply, body = {"code": error.code, "message": error.message}, b""
    except FileNotFoundError:
        reply, body = {"code": "invalid_file", "message": "The file was deleted."}, b""
    except MemoryError:
        fit = False
        reply, body = {"code": "invalid_file", "message": "Reading this file takes too much memory."}, b""
    except Exception as error:
        message = f"This file cannot be read ({type(error).__name__})."
        reply, body = {"code": "invalid_file", "message": message}, b""
    out.write(json.dumps(reply).encode() + b"\n" + body)
    out.flush()
    return fit


def _parse(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    body = read(Path(request["path"]), request["filename"]).encode()
    return {"length": len(body)}, body


def _limit(name: str, most: int) -> None:
    """Sets a limit of this process, where the system has such."""
    try:
        import resource  # noqa: PLC0415  # not on Windows
    except ImportError:
        return
    kind = getattr(resource, name)
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    with contextlib.suppress(OSError, ValueError):  # macOS has some limits in name only
        resource.setrlimit(kind, (most, hard))


if __name__ == "__main__":
    main()
