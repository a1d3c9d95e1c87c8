"""Who is asking."""

import msgspec

DEFAULT_PROJECT = "default"


class Caller(msgspec.Struct, frozen=True):
    """The tenant that a request acts for. Every statement on a tenant's table carries `project`."""

    project: str = DEFAULT_PROJECT
    key_id: str | None = None
