"""Warm hand-over: two marks in the store, by which an attempt and its successor know of each other.

The successor loads model and data, marks that it is ready, and claims when its predecessor has marked that it has left. Until it is
ready, the predecessor uses the time that it has left. The marks are for speed only. Without them each goes by the clock: the
predecessor leaves in time before its end, and the successor claims at that end; a mark that comes too early has the predecessor
fenced, as by any claim.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from spottune_trainer.checkpoint.drive import start_daemon

LOOK_SECONDS = 0.25


def await_mark(
    there: Callable[[], bool],
    until: float,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until `there()` is true; False if the time `until` (wall clock seconds) has come before."""
    while True:
        if there():
            return True
        remaining = until - clock()
        if remaining <= 0:
            return False
        sleep(min(LOOK_SECONDS, remaining))


class Relief:
    """Whether the successor is ready. It is looked for in a thread of its own, from when that is first asked."""

    def __init__(self, there: Callable[[], bool]) -> None:
        self._there = there
        self._ready = threading.Event()
        self._looking = False

    def ready(self) -> bool:
        """Returns at once, with what is known."""
        if not self._looking:
            self._looking = True
            start_daemon(self._look)
        return self._ready.is_set()

    def _look(self) -> None:
        if await_mark(self._there, float("inf")):
            self._ready.set()
