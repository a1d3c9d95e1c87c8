"""Names for the processes that hold leases, and how one process knows that another is dead without waiting."""

import hashlib
import os
import secrets
import socket
from functools import cache
from pathlib import Path


def new_owner() -> str:
    """A name for this process and this start of it: `host:pid:started-nonce`. Process ids are used again: what ran
    under one before is told by when it was started."""
    pid = os.getpid()
    return f"{_host()}:{pid}:{_started(pid)}-{secrets.token_hex(6)}"


def is_dead(owner: str, mine: str) -> bool:
    """Whether `owner` certainly no longer runs. What cannot be known from here (another machine) counts as alive."""
    host, pid, nonce = owner.rsplit(":", 2)
    my_host, my_pid, my_nonce = mine.rsplit(":", 2)
    if host != my_host:
        return False
    if pid == my_pid:
        return nonce != my_nonce
    if not _is_running(int(pid)):
        return True
    started, now_running = nonce.rpartition("-")[0], _started(int(pid))
    return bool(started and now_running) and started != now_running


@cache
def _host() -> str:
    """Names the space in which process ids mean the same: machine, boot and (in containers) pid namespace."""
    facts = [socket.gethostname(), _read("/proc/sys/kernel/random/boot_id"), _link("/proc/self/ns/pid")]
    return f"{facts[0][:48].replace(':', '-')}-{hashlib.sha256('|'.join(facts).encode()).hexdigest()[:8]}"


def _started(pid: int) -> str:
    """When a process was started, in clock ticks since the machine was; empty where the system does not tell."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()  # the name before the bracket may hold anything
    return fields[19] if len(fields) > 19 else ""


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
