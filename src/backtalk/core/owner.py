"""Names for the processes that hold leases, and how one process knows that another is dead without waiting."""

import hashlib
import os
import secrets
import socket
from functools import cache
from pathlib import Path


def new_owner() -> str:
    """A name for this process and this start of it: `host:pid:nonce`."""
    return f"{_host()}:{os.getpid()}:{secrets.token_hex(6)}"


def is_dead(owner: str, mine: str) -> bool:
    """Whether `owner` certainly no longer runs. What cannot be known from here (another machine) counts as alive."""
    host, pid, nonce = owner.rsplit(":", 2)
    my_host, my_pid, my_nonce = mine.rsplit(":", 2)
    if host != my_host:
        return False
    if pid == my_pid:
        return nonce != my_nonce
    return not _is_running(int(pid))


@cache
def _host() -> str:
    """Names the space in which process ids mean the same: machine, boot and (in containers) pid namespace."""
    facts = [socket.gethostname(), _read("/proc/sys/kernel/random/boot_id"), _link("/proc/self/ns/pid")]
    return f"{facts[0][:48].replace(':', '-')}-{hashlib.sha256('|'.join(facts).encode()).hexdigest()[:8]}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # there, signal 0 would be Ctrl-C; the lease runs out soon enough
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
