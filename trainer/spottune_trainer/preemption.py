"""Signals and notices: who asked for a commit or for the end, and what to do about it.

SIGTERM or SIGINT: stop at the next micro-batch, commit the state of the last finished optimizer step, exit 10. A second signal
changes nothing: what is being saved is being saved. A notice (`POST /checkpoint`) asks for a commit only.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from types import FrameType

from spottune_contract.notice import MARGIN_SECONDS as MARGIN_BEFORE_DEADLINE
from spottune_contract.progress import CheckpointRequest
from spottune_contract.records import CommitReason

LONGEST_NOTICE_SECONDS = 600.0
"""A deadline further away than this is taken for this: until then each finished step would be committed at once."""
BURST, REFILL_SECONDS = 4, 15.0
"""Notices that are answered with a commit: this many at once, then one per so many seconds."""
SAFETY = 2.0
"""Measured times are multiplied by this before a deadline is trusted to them."""
MARGIN_SECONDS = 3.0


@dataclass(frozen=True)
class Notice:
    """Somebody asked for a commit, or for the end. Times are monotonic unless they say otherwise."""

    source: str
    at: float
    at_wall: float
    deadline: float | None
    """When the machine goes away; None if nothing ends or nobody knows."""

    @property
    def reason(self) -> CommitReason:
        if self.source in ("sigterm", "sigint"):
            return "sigterm"
        if "rebalance" in self.source:
            return "rebalance"
        return "request" if self.deadline is None else "notice"


class Answer(Enum):
    ACCEPTED = auto()
    DUPLICATE = auto()
    TOO_MANY = auto()


class StopRequested(BaseException):
    """Raised out of a section that may be left at any point, so that a stop needs no wait for it."""


class Preemption:
    """All requests of one process. `notify` comes from HTTP threads, the signal handler and the rest from the main thread."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic, clock: Callable[[], float] = time.time) -> None:
        self._monotonic, self._clock = monotonic, clock
        self._lock = threading.Lock()
        self._stop: Notice | None = None
        self._open: Notice | None = None
        self._seen: dict[tuple[str, float | None], float] = {}
        self._tokens, self._refilled = float(BURST), monotonic()
        self._raise = False

    def install(self) -> None:
        """Take SIGTERM and SIGINT over. To be called in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # No lock here: the main thread, which runs this, may hold it.
        if self._stop is None:
            self._stop = Notice(signal.Signals(number).name.lower(), self._monotonic(), self._clock(), None)
        if self._raise:
            self._raise = False
            raise StopRequested

    @contextmanager
    def leaving_at_once(self) -> Iterator[None]:
        """Inside, a stop raises `StopRequested` at any point. For sections that change nothing that lasts."""
        self._raise = True
        try:
            if self._stop is not None:
                self._raise = False
                raise StopRequested
            yield
        finally:
            self._raise = False

    def notify(self, request: CheckpointRequest) -> Answer:
        """A `POST /checkpoint`. The same source and deadline again is a duplicate; floods are refused."""
        key = (request.source, request.deadline)
        with self._lock:
            now = self._monotonic()
            if request.deadline is not None and key in self._seen:
                return Answer.DUPLICATE
            self._tokens = min(float(BURST), self._tokens + (now - self._refilled) / REFILL_SECONDS)
            self._refilled = now
            if self._tokens < 1:
                return Answer.TOO_MANY
            self._tokens -= 1
            wall = self._clock()
            # A deadline that has passed is none: whoever asks still runs.
            left = None if request.deadline is None or request.deadline <= wall else request.deadline - wall
            deadline = None if left is None else now + min(left, LONGEST_NOTICE_SECONDS)
            notice = Notice(request.source, now, wall, deadline)
            self._seen = {k: at for k, at in self._seen.items() if now - at < 3600} | {key: now}
            self._open = _more_urgent(self._open, notice)
            return Answer.ACCEPTED

    @property
    def stop(self) -> Notice | None:
        """The first request to end, or None."""
        return self._stop

    @property
    def notice(self) -> Notice | None:
        """The most urgent notice that still needs a commit, or None."""
        return self._open

    def first_notice(self) -> Notice | None:
        """Of all that asked and still matter, the first: latencies count from it."""
        asked = [n for n in (self._stop, self._open) if n is not None]
        return min(asked, key=lambda n: n.at) if asked else None

    def deadline(self, grace_seconds: float) -> float | None:
        """Until when a commit must be durable (monotonic): the known deadline, or the grace period after the signal."""
        if self._open is not None and self._open.deadline is not None and self._open.deadline > self._monotonic():
            return self._open.deadline
        return None if self._stop is None else self._stop.at + grace_seconds

    def last_moment(self, grace_seconds: float) -> float | None:
        """When the process is killed (monotonic), if that is known for sure: a signal came, and a deadline was told that lies ahead.

        Whoever sends the signal because of a notice leaves the time until the deadline, less a margin, and never more than the grace period.
        """
        stop, notice = self._stop, self._open
        if stop is None or notice is None or notice.deadline is None or notice.deadline <= self._monotonic():
            return None
        return min(notice.deadline - MARGIN_BEFORE_DEADLINE, stop.at + grace_seconds)

    def answered(self, notice: Notice) -> None:
        """A commit of the newest state is durable or under way for `notice`; one with a deadline stays open until then."""
        with self._lock:
            if self._open is notice and (notice.deadline is None or notice.deadline <= self._monotonic()):
                self._open = None


def _more_urgent(one: Notice | None, other: Notice) -> Notice:
    if one is None or one.deadline is None:
        return other
    return one if other.deadline is None or one.deadline <= other.deadline else other


def finish_step_first(*, now: float, deadline: float | None, step_seconds_left: float, commit_seconds: float) -> bool:
    """Should the optimizer step be finished before the commit? Only if both surely fit before the deadline.

    `step_seconds_left` and `commit_seconds` are as measured so far (0 means never measured, then nothing is sure).
    """
    if deadline is None:
        return True
    if not step_seconds_left or not commit_seconds:
        return False
    return now + SAFETY * (step_seconds_left + commit_seconds) + MARGIN_SECONDS <= deadline
