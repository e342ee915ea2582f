"""Failpoints: named places in operator and trainer where a test can kill, stop, fail or delay the process.

`SPOTTUNE_FAILPOINT=NAME:ACTION[:NTH]`, several separated by commas; ACTION is `kill` (SIGKILL to ourselves), `stop` (SIGSTOP),
`raise` or `sleep=SECONDS`; NTH counts from 1 (default 1: the first time). Without the variable `hit` is one dictionary look-up.
"""

from __future__ import annotations

import os
import signal
import sys
import time

VARIABLE = "SPOTTUNE_FAILPOINT"


class FailpointError(RuntimeError):
    """Raised by a failpoint with action `raise`."""


def _parse(text: str) -> dict[str, tuple[str, int]]:
    armed = {}
    for item in filter(None, text.split(",")):
        parts = item.split(":")
        if len(parts) not in (2, 3) or not (parts[1] in ("kill", "stop", "raise") or parts[1].startswith("sleep=")):
            raise ValueError(f"{VARIABLE}: {item!r} is not NAME:ACTION[:NTH] with ACTION kill, stop, raise or sleep=SECONDS")
        armed[parts[0]] = (parts[1], int(parts[2]) if len(parts) == 3 else 1)
    return armed


_armed = _parse(os.environ.get(VARIABLE, ""))
_hits: dict[str, int] = {}


def hit(name: str) -> None:
    """Pass the failpoint `name`: does nothing unless it is armed. Says on stderr that it fired, so that a campaign can count it."""
    armed = _armed.get(name)
    if armed is None:
        return
    action, nth = armed
    _hits[name] = _hits.get(name, 0) + 1
    if _hits[name] != nth:
        return
    sys.stderr.write(f"failpoint {name} fired: {action}\n")
    sys.stderr.flush()
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "raise":
        raise FailpointError(name)
    else:
        time.sleep(float(action.removeprefix("sleep=")))
