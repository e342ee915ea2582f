"""So many a second, and few at once: what is urgent shall not wait behind what is not."""

from __future__ import annotations


class Allowance:
    """A token bucket, full at first. Times are seconds of one monotonic clock."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._left = self._most
        self._at: float | None = None

    @property
    def _most(self) -> float:
        """At once: one, and a fifth of a second's worth."""
        return 1.0 + self.per_second / 5

    def left(self, now: float) -> bool:
        """May another one be had?"""
        if self._at is not None:
            self._left = min(self._left + (now - self._at) * self.per_second, self._most)
        self._at = now
        return self._left >= 1.0

    def take(self) -> None:
        """One was had; more than there are may be, and then it takes longer until there is one again."""
        self._left -= 1.0
