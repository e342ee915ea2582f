"""Asking running trainers how far they are: evenly, and with a limit however many there are."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass

from spottune_contract.progress import Progress
from spottune_operator import logs
from spottune_operator.allowance import Allowance
from spottune_operator.executor import Clocks
from spottune_operator.metrics import Metrics
from spottune_operator.planner.reports import AT_WORK
from spottune_operator.tasks import cancelled
from spottune_operator.trainers import Trainers, Unreachable
from spottune_operator.view import JobKey, PodPlace, View
from spottune_operator.workqueue import WorkQueue

POLL_SECONDS = 5.0
LONGEST_INTERVAL = 50.0
"""Every trainer is asked this often, however many there are: with what a slow one delays, no more than a minute passes."""
POLLS_PER_SECOND = 200.0
QUIET_SECONDS = 10.0
"""Steps and losses alone have a job considered this often at most; anything else a trainer says does so at once."""
POLLS_AT_ONCE = 128
TICK = 0.1

_log = logs.get(__name__)


@dataclass(frozen=True)
class Pace:
    """How often trainers are asked. Pure."""

    seconds: float = POLL_SECONDS
    """Between two questions to one trainer, where there are few."""
    per_second: float = POLLS_PER_SECOND
    """Questions to all of them, at most, unless that made one wait for longer than `LONGEST_INTERVAL`."""

    def interval(self, running: int) -> float:
        """Seconds between two questions to one of so many trainers."""
        return max(self.seconds, min(LONGEST_INTERVAL, running / self.per_second))

    def rate(self, running: int) -> float:
        """Questions per second at most."""
        return max(self.per_second, running / LONGEST_INTERVAL)


class Poll:
    """Pulls `/progress` of every running trainer. One that is not at work yet, or silent, is asked more often: its next words are news."""

    def __init__(
        self, view: View, trainers: Trainers, queue: WorkQueue[JobKey], metrics: Metrics, clocks: Clocks, pace: Pace | None = None
    ) -> None:
        self._view = view
        self._trainers = trainers
        self._queue = queue
        self._metrics = metrics
        self._clocks = clocks
        self._pace = pace or Pace()
        self._looked: dict[str, float] = {}
        self._due: list[tuple[float, int, tuple[str, str], str]] = []
        """When to ask whom: namespace, name and UID of the pod; the number keeps the order of those that are due together."""
        self._order = itertools.count()
        self._known: set[str] = set()
        """UIDs of pods that are in `_due`."""
        self._allowance = Allowance(self._pace.per_second)
        self._asking: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._begin_due()
                await asyncio.sleep(TICK)
        finally:
            await cancelled(self._asking)

    def _begin_due(self) -> None:
        """Begin to ask those whose time has come, as many as are allowed."""
        now, running = self._clocks.monotonic(), self._take_in()
        interval, self._allowance.per_second = self._pace.interval(running), self._pace.rate(running)
        while self._due and self._due[0][0] <= now and self._allowance.left(now) and len(self._asking) < POLLS_AT_ONCE:
            _, _, where, uid = heapq.heappop(self._due)
            place = self._view.pods.get(where)
            if place is None or place.uid != uid or not _can_be_asked(place):
                self._known.discard(uid)
                self._looked.pop(uid, None)
                continue
            self._allowance.take()
            heapq.heappush(self._due, (now + (interval if self._at_work(uid) else self._pace.seconds), next(self._order), where, uid))
            task = asyncio.create_task(self._one(place))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    def _take_in(self) -> int:
        """New trainers are due at once. Returns how many trainers there are."""
        running = 0
        for where, place in self._view.pods.items():
            if _can_be_asked(place):
                running += 1
                if place.uid not in self._known:
                    self._known.add(place.uid)
                    heapq.heappush(self._due, (0.0, next(self._order), where, place.uid))
        return running

    def _at_work(self, uid: str) -> bool:
        report = self._view.progress.get(uid)
        return report is not None and report.phase in AT_WORK and uid not in self._view.silent

    async def _one(self, place: PodPlace) -> None:
        try:
            report = await self._trainers.progress(place.ip)
        except Unreachable as error:
            self._metrics.progress_polls.labels("unreachable").inc()
            if place.uid not in self._view.silent:
                self._view.silent[place.uid] = self._clocks.wall()
                # Somebody may have announced its end already: now there is a second witness.
                self._queue.add(place.job)
            _log.debug("trainer not reached", namespace=place.job.namespace, job=place.job.name, error=str(error))
            return
        self._metrics.progress_polls.labels("answered").inc()
        self._view.silent.pop(place.uid, None)
        before = self._view.progress.get(place.uid)
        self._view.progress[place.uid] = report
        now = self._clocks.monotonic()
        quiet = before is not None and _news(before) == _news(report)
        if before == report:
            return
        if quiet and (now - self._looked.get(place.uid, 0.0) < QUIET_SECONDS or not self._view.tells_steps(now)):
            return
        self._looked[place.uid] = now
        self._queue.add(place.job)


def _can_be_asked(place: PodPlace) -> bool:
    return place.running and bool(place.ip)


def _news(report: Progress) -> Progress:
    """What of a report cannot wait: all but the numbers that change with every step."""
    steady = {"step": 0, "loss": None, "learning_rate": None, "samples_seen": 0, "tokens_per_second": 0.0, "step_seconds": 0.0}
    return report.model_copy(update={**steady, "checkpoint_seconds": 0.0})
