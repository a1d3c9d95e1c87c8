"""Owners: a dead one is known at once where that is certain, and nowhere else."""

import signal
import subprocess
import sys

from backtalk.core.owner import is_dead, new_owner
from support import lacking


def changed(owner: str, *, host: str | None = None, pid: int | None = None, nonce: str | None = None) -> str:
    parts = owner.rsplit(":", 2)
    return f"{host or parts[0]}:{pid or parts[1]}:{nonce or parts[2]}"


def test_owners_are_told_apart() -> None:
    assert len({new_owner() for _ in range(100)}) == 100
    assert len(new_owner()) <= 128, "it must fit its column"


def test_this_process_lives_and_its_earlier_starts_do_not() -> None:
    mine = new_owner()
    assert not is_dead(mine, mine)
    assert is_dead(changed(mine, nonce="before"), mine), "the same pid under another nonce was another process"


def neighbour() -> tuple[subprocess.Popen[str], str]:
    """Another process, and its name."""
    code = "from backtalk.core.owner import new_owner; print(new_owner(), flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, process.stdout.readline().strip()


def test_a_neighbour_lives_until_it_is_killed() -> None:
    mine = new_owner()
    process, owner = neighbour()
    assert not is_dead(owner, mine)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert is_dead(owner, mine)


def test_who_ran_under_a_process_id_before_is_dead() -> None:
    mine = new_owner()
    process, owner = neighbour()
    started, nonce = owner.rsplit(":", 1)[1].split("-")
    if not started:
        lacking("only Linux tells when a process was started")
    assert is_dead(changed(owner, nonce=f"{int(started) - 1}-{nonce}"), mine)
    assert not is_dead(changed(owner, nonce=nonce), mine), "of whom it is not known it counts as alive"
    process.communicate("")


def test_a_process_of_another_user_counts_as_alive() -> None:
    assert not is_dead(changed(new_owner(), pid=1, nonce="x"), new_owner())


def test_of_another_machine_nothing_is_known() -> None:
    mine = new_owner()
    assert not is_dead(changed(mine, host="elsewhere"), mine)
    assert not is_dead(changed(mine, host="elsewhere", nonce="other"), mine)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    assert not is_dead(changed(mine, host="elsewhere", pid=int(gone.stdout)), mine)
