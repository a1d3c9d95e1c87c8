"""Tells of code that holds the event loop up: while it runs, nobody else is served."""

import asyncio
import logging
import sys
import threading
import time
import traceback
from types import FrameType

log = logging.getLogger("backtalk.watchdog")

LOOK_SECONDS = 0.1
AGAIN_SECONDS = 60.0
"""How long the same place is not told of again."""
_MOST_FRAMES = 8
_LOOPS = ("asyncio", "selectors.py", "uvloop")
"""Where a loop that waits, or looks for what to run next, is found."""


class Watchdog:
    """Asks the running event loop, from a thread, whether it is there, and logs where it is when it does not answer.

    `seconds`: how long it may be held up. 0: nobody watches.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._told: dict[tuple[str, int], float] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Watches the loop that runs this."""
        if self._seconds:
            watched = (asyncio.get_running_loop(), threading.get_ident())
            self._thread = threading.Thread(target=self._watch, args=watched, name="backtalk-watchdog", daemon=True)
            self._thread.start()

    async def stop(self) -> None:
        self._stopping.set()
        if self._thread:
            await asyncio.to_thread(self._thread.join)

    def _watch(self, loop: asyncio.AbstractEventLoop, thread_id: int) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            answered = threading.Event()
            asked = time.monotonic()
            loop.call_soon_threadsafe(answered.set)
            if answered.wait(self._seconds) or not self._tell(thread_id):
                continue
            while not answered.wait(self._seconds) and not self._stopping.is_set():
                pass
            log.warning("the event loop goes on after %.1f s", time.monotonic() - asked)

    def _tell(self, thread_id: int) -> bool:
        """Whether there was something to tell."""
        frame = sys._current_frames().get(thread_id)
        if frame is None or any(part in frame.f_code.co_filename for part in _LOOPS):
            return False  # the machine is busy, not our code
        place, now = (frame.f_code.co_filename, frame.f_lineno), time.monotonic()
        if now < self._told.get(place, 0.0):
            return False
        self._told[place] = now + AGAIN_SECONDS
        log.warning(
            "the event loop has been held up for %g s, and serves nobody meanwhile, by %s. "
            "Use a `def` route or asyncio.to_thread for what blocks.",
            self._seconds,
            _stack(frame),
        )
        return True


def _stack(frame: FrameType) -> str:
    """Where it is, and who called that, in one line."""
    frames = traceback.extract_stack(frame)[: -_MOST_FRAMES - 1 : -1]
    return " ← ".join(f"{one.name} ({one.filename}:{one.lineno}: {one.line})" for one in frames)
