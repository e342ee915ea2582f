"""What the operator does again and again by itself: list everything afresh. The watch only makes things faster; whatever it misses,
the next list finds."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from spottune_operator import logs
from spottune_operator.cluster import Cluster, ClusterError
from spottune_operator.executor import Clocks, Executor
from spottune_operator.health import Health
from spottune_operator.metrics import Metrics
from spottune_operator.planner.pools import current, shared
from spottune_operator.planner.statuses import at
from spottune_operator.view import JobKey, Listing, View
from spottune_operator.workqueue import WorkQueue

Json = dict[str, Any]

RESYNC_SECONDS = 10.0
RETRY_SECONDS = 1.0
"""After a failed list: the API server may be back any moment, and then nobody shall wait for the next round."""
WATCH_BACK_SECONDS = 2.0
"""A watch that is tried again is back after so long, or has failed again."""
MOST_AT_REST = 1000
"""So many jobs of which the list shows nothing new are considered in one round; where there are more, they take turns."""
LONGEST_STRETCH = 0.01
"""Seconds after which everybody else has a turn."""

_log = logs.get(__name__)


class Resync:
    """Lists jobs, then pods and nodes, live; while this operator leads, has every job looked at for which the lists show something to do."""

    def __init__(
        self,
        cluster: Cluster,
        view: View,
        executor: Executor,
        queue: WorkQueue[JobKey],
        health: Health,
        metrics: Metrics,
        clocks: Clocks,
        leads: Callable[[], bool],
    ) -> None:
        self._cluster = cluster
        self._view = view
        self._executor = executor
        self._queue = queue
        self._health = health
        self._metrics = metrics
        self._clocks = clocks
        self._leads = leads
        self._hurry = asyncio.Event()
        self._cut_at = float("-inf")
        self._changed: set[JobKey] = set()
        """Jobs of which a list has shown something new; kept until they were considered."""
        self._whole = True
        self._next = 0
        self._breathed = 0.0
        self.complete = asyncio.Event()
        """Set once the first round was complete."""
        self.considered = asyncio.Event()
        """Set once every job was considered since this operator began to lead."""

    def at_once(self) -> None:
        """Consider every job now, as far as known, and begin the next round."""
        self._whole = True
        self.considered.clear()
        self._hurry.set()

    def watch_cut(self) -> None:
        """A watch has lost its connection. What vanishes until it is back it may never tell: that is for lists to find, at once and then."""
        before, self._cut_at = self._cut_at, self._clocks.monotonic()
        if self._cut_at >= before + WATCH_BACK_SECONDS:
            self._hurry.set()

    async def run(self, seconds: float = RESYNC_SECONDS) -> None:
        """Until cancelled."""
        while True:
            self._hurry.clear()
            began = self._clocks.monotonic()
            complete = await self.once()
            pause = seconds if complete else RETRY_SECONDS
            if complete and began < self._cut_at + WATCH_BACK_SECONDS:
                pause = min(seconds, max(RETRY_SECONDS, self._clocks.monotonic() - began))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            if self._whole and self.complete.is_set() and self._leads():
                await self._consider()

    async def once(self) -> bool:
        """One round. False if a list failed."""
        self._health.trying(self._clocks.monotonic())
        began = self._clocks.wall()
        listing = Listing(self._view, self._changed)
        try:
            # Pods after jobs: a pod that this list lacks did not exist when the job was read.
            async for page in self._cluster.pages_of_jobs():
                listing.jobs(page)
            listing.nodes(await self._cluster.list_nodes())
            async for page in self._cluster.pages_of_pods():
                listing.pods(page)
        except ClusterError as error:
            self._metrics.api_errors.labels(type(error).__name__).inc()
            _log.warning("live list failed", error=f"{type(error).__name__}: {error}")
            return False
        listing.close()
        self._view.listed_at = began
        self._share_pools()
        self._health.listed(listing.versions, self._clocks.monotonic())
        self._metrics.jobs.clear()
        if not self._leads():
            self.complete.set()
            return True
        # What is due is found before the watch tells of every object anew, which takes as long.
        await self._consider()
        self.complete.set()
        self._metrics.queue_length.set(len(self._queue))
        self._metrics.set_aside.set(self._queue.set_aside)
        for phase, count in Counter(job.phase for job in self._view.jobs.values()).items():
            self._metrics.jobs.labels(phase).set(count)
        return True

    def _share_pools(self) -> None:
        now, jobs = self._clocks.wall(), self._view.jobs.values()
        troubles = [state for job in jobs for state in job.trouble if current(state, now)]
        machines: dict[str, float] = {}
        if troubles:
            for pool, since in {machine for job in jobs for machine in job.machines}:
                machines[pool] = max(machines.get(pool, 0.0), at(since))
        self._view.pools = shared(troubles, machines, now)

    async def _consider(self) -> None:
        """Queue what is due: of the jobs that have changed, of those whose time runs out unheard, and of some of the others in turn."""
        whole = self._whole
        for key in self._turn():
            if self._clocks.monotonic() - self._breathed > LONGEST_STRETCH:
                await asyncio.sleep(0)
                self._breathed = self._clocks.monotonic()
            delay = self._executor.remembered(key)
            if delay is not None:
                self._queue.add(key, delay)
        if whole:
            self.considered.set()

    def _turn(self) -> Collection[JobKey]:
        view = self._view
        everything, changed, whole = list(view.jobs), tuple(self._changed), self._whole
        self._changed.clear()
        self._whole = False
        if whole or len(everything) <= MOST_AT_REST:
            return everything
        silent = {name for name, node in view.nodes.items() if not _ready(node)}
        restless = {place.job for place in view.pods.values() if place.leaving or place.node in silent}
        begin = self._next % len(everything)
        self._next = begin + MOST_AT_REST
        in_turn = (everything + everything)[begin : self._next]
        return dict.fromkeys((*changed, *restless, *in_turn))


def _ready(node: Json) -> bool:
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in node["status"]["conditions"])
