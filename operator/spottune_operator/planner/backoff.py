"""How long to wait before the next try, in seconds. Deterministic: jitter belongs to the work queue."""

from __future__ import annotations

FAILURE_BASE, FAILURE_MOST = 10.0, 360.0
CAPACITY_BASE, CAPACITY_MOST = 30.0, 600.0
REFUSAL_BASE, REFUSAL_MOST = 2.0, 60.0
AVOID_INTERRUPTED = 180.0
"""A pool that interrupted us is avoided for as long as Karpenter blocks an offering after an interruption."""


def after_failures(count: int) -> float:
    """After the `count`-th failure in a row, or the `count`-th attempt in a row that was taken away before its first step."""
    return _doubled(FAILURE_BASE, FAILURE_MOST, count)


def of_pool(count: int) -> float:
    """How long a pool is left alone after the `count`-th start in a row for which it had no machine."""
    return _doubled(CAPACITY_BASE, CAPACITY_MOST, count)


def after_refusals(count: int) -> float:
    """After the `count`-th refused create of one pod."""
    return _doubled(REFUSAL_BASE, REFUSAL_MOST, count)


def _doubled(base: float, most: float, count: int) -> float:
    # The exponent is bounded, so that a huge count cannot overflow a float.
    return 0.0 if count <= 0 else min(base * 2.0 ** min(count - 1, 32), most)
