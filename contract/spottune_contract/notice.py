"""What an announced end of a machine means for the pod on it; the node agent and the drill that practises it do the same."""

from __future__ import annotations

import math

ASSUMED_SECONDS = 20.0
"""Time left where the source says that the end has begun but not when it is there: the same as after a bare SIGTERM."""
MARGIN_SECONDS = 5.0
"""Left for the kubelet to report the pod's end before the machine is gone."""


def grace_seconds(deadline: float, *, now: float, margin: float = MARGIN_SECONDS) -> int:
    """Whole seconds from `now` to the deadline, less the margin; at least 1, since 0 would be a forced deletion that waits for nothing.

    Both are wall clock seconds. A deadline that has passed is none: the machine still runs.
    """
    if deadline <= now:
        return math.floor(ASSUMED_SECONDS)
    return max(1, math.floor(deadline - now - margin))
