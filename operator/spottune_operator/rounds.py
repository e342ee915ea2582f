"""What the operator does again and again by itself: list everything afresh (`Resync`), ask running trainers how far they are (`Poll`).

The watch only makes things faster. Whatever it misses, the next list finds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from spottune_contract.progress import Progress
from spottune_operator import logs
from spottune_operator.api.v1alpha1 import FineTuneJobStatus
from spottune_operator.cluster import Cluster, ClusterError
from spottune_operator.executor import Clocks, Executor
from spottune_operator.health import Health, Key
from spottune_operator.metrics import Metrics
from spottune_operator.planner.pools import shared
from spottune_operator.trainers import Trainers, Unreachable
from spottune_operator.view import JobKey, PodPlace, View
from spottune_operator.workqueue import WorkQueue

Json = dict[str, Any]

RESYNC_SECONDS = 10.0
RETRY_SECONDS = 1.0
"""After a failed list: the API server may be back any moment, and then nobody shall wait for the next round."""
POLL_SECONDS = 5.0
POLLS_AT_ONCE = 32
QUIET_SECONDS = 10.0
"""Steps and losses alone make a job looked at this often at most; anything else a trainer says does so at once."""

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
        self.complete = asyncio.Event()
        """Set once the first round was complete."""

    def at_once(self) -> None:
        """Begin the next round now."""
        self._hurry.set()

    async def run(self, seconds: float = RESYNC_SECONDS) -> None:
        """Until cancelled."""
        while True:
            self._hurry.clear()
            complete = await self.once()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds if complete else RETRY_SECONDS):
                    await self._hurry.wait()

    async def once(self) -> bool:
        """One round. False if a list failed."""
        self._health.trying(self._clocks.monotonic())
        try:
            # Pods after jobs: a pod that this list lacks did not exist when the job was read.
            jobs = await self._cluster.list_jobs()
            pods, nodes = await asyncio.gather(self._cluster.list_pods(), self._cluster.list_nodes())
        except ClusterError as error:
            self._metrics.api_errors.labels(type(error).__name__).inc()
            _log.warning("live list failed", error=f"{type(error).__name__}: {error}")
            return False
        self._view.replace(pods, nodes, (job["metadata"]["uid"] for job in jobs))
        self._view.pools = shared((FineTuneJobStatus.parse(job.get("status")) for job in jobs), self._clocks.wall())
        self._health.listed(_versions(jobs, pods, nodes), self._clocks.monotonic())
        self.complete.set()
        self._metrics.jobs.clear()
        if not self._leads():
            return True
        self._queue_due(jobs, pods)
        self._metrics.queue_length.set(len(self._queue))
        self._metrics.set_aside.set(self._queue.set_aside)
        phases = Counter((job.get("status") or {}).get("phase", "Pending") for job in jobs)
        for phase, count in phases.items():
            self._metrics.jobs.labels(phase).set(count)
        return True

    def _queue_due(self, jobs: list[Json], pods: list[Json]) -> None:
        of_job: dict[JobKey, list[Json]] = {}
        for pod in pods:
            place = self._view.pods.get((pod["metadata"]["namespace"], pod["metadata"]["name"]))
            if place is not None:
                of_job.setdefault(place.job, []).append(pod)
        for job in jobs:
            key = JobKey(job["metadata"]["namespace"], job["metadata"]["name"])
            try:
                delay = self._executor.due(job, of_job.get(key, []))
            except Exception:
                # The look itself throws again, inside the queue, where failing is handled.
                delay = 0.0
            if delay is not None:
                self._queue.add(key, delay)


def _versions(jobs: list[Json], pods: list[Json], nodes: list[Json]) -> Mapping[Key, str]:
    kinds = (("job", jobs), ("pod", pods), ("node", nodes))
    return {
        (kind, item["metadata"].get("namespace", ""), item["metadata"]["name"]): item["metadata"]["resourceVersion"]
        for kind, items in kinds
        for item in items
    }


class Poll:
    """Pulls `/progress` of every running trainer."""

    def __init__(self, view: View, trainers: Trainers, queue: WorkQueue[JobKey], metrics: Metrics, clocks: Clocks) -> None:
        self._view = view
        self._trainers = trainers
        self._queue = queue
        self._metrics = metrics
        self._clocks = clocks
        self._looked: dict[str, float] = {}

    async def run(self, seconds: float = POLL_SECONDS) -> None:
        """Until cancelled."""
        while True:
            await self.once()
            await asyncio.sleep(seconds)

    async def once(self) -> None:
        """Ask every running trainer once, many at a time."""
        places = [place for place in self._view.pods.values() if place.running and place.ip]
        self._looked = {place.uid: self._looked[place.uid] for place in places if place.uid in self._looked}
        gate = asyncio.Semaphore(POLLS_AT_ONCE)

        async def ask(place: PodPlace) -> None:
            async with gate:
                await self._one(place)

        await asyncio.gather(*(ask(place) for place in places))

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
        if before == report or (quiet and now - self._looked.get(place.uid, 0.0) < QUIET_SECONDS):
            return
        self._looked[place.uid] = now
        self._queue.add(place.job)


def _news(report: Progress) -> Progress:
    """What of a report cannot wait: all but the numbers that change with every step."""
    steady = {"step": 0, "loss": None, "learning_rate": None, "samples_seen": 0, "tokens_per_second": 0.0, "step_seconds": 0.0}
    return report.model_copy(update={**steady, "checkpoint_seconds": 0.0})
