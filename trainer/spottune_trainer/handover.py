"""Warm hand-over: the successor has loaded model and data, and claims as soon as its predecessor has written its last.

The mark is for speed only. Without it (the predecessor lost its power) the successor claims when its predecessor's time is up; a mark
that comes too early has the predecessor fenced, as by any claim.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_SECONDS = 0.25


def await_mark(
    left: Callable[[], bool],
    until: float,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until `left()` is true; False if the time `until` (wall clock seconds) has come before."""
    while True:
        if left():
            return True
        remaining = until - clock()
        if remaining <= 0:
            return False
        sleep(min(LOOK_SECONDS, remaining))
