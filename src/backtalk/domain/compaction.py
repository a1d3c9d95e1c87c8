"""What a `compaction` item holds: a summary that stands for the talk before it, and what of that talk stays word for word.

`encrypted_content` is opaque to clients by OpenAI's contract. It is no secret here: it holds their own talk, and is
taken back like any other input of theirs.
"""

import base64
from typing import Any

import msgspec

_MARK = "bt1."


class Compaction(msgspec.Struct, omit_defaults=True):
    """`items` follow on the summary. With `users`, the user's messages before it are kept too."""

    summary: str
    items: list[dict[str, Any]] = []
    users: bool = False


def pack(compaction: Compaction) -> str:
    """As `encrypted_content`."""
    return _MARK + base64.urlsafe_b64encode(msgspec.json.encode(compaction)).decode()


def unpack(content: str) -> Compaction:
    """Raises ValueError for what `pack` did not make."""
    if not content.startswith(_MARK):
        raise ValueError("it is not from this kind of server")
    try:
        data = base64.b64decode(content.removeprefix(_MARK), altchars=b"-_", validate=True)
        return msgspec.json.decode(data, type=Compaction)
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise ValueError("it is damaged") from error
