"""What happens to one message: parse it, match it against live nodes, put it on the board, tell the trainers there, have their jobs looked at.

What is done about it is the planner's decision like every other, and waits for the API server. That a trainer is told does not: the worst
that a word too many can do is an early commit, and of two minutes none is to be lost while the API server is slow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

from spottune_contract.failpoint import hit
from spottune_contract.labels import JOB
from spottune_contract.progress import CheckpointRequest
from spottune_operator import logs
from spottune_operator.cluster import Cluster
from spottune_operator.executor import CONFLICT_PAUSE
from spottune_operator.metrics import Metrics
from spottune_operator.notices.board import announces, instance_of
from spottune_operator.notices.eventbridge import CloudEvent, Irrelevant, Malformed, parse
from spottune_operator.notices.sqs import Rejected, TooEarly
from spottune_operator.trainers import Trainers, Unreachable
from spottune_operator.view import JobKey, PodPlace, View
from spottune_operator.workqueue import WorkQueue

STALE_SECONDS = 300.0
"""An event older than this is history: the queue keeps messages for 300 s."""
SKEW_SECONDS = 5.0
"""AWS's clock and ours agree at least this well."""

_log = logs.get(__name__)


class NoticeDesk:
    """Handles message bodies of one source."""

    def __init__(
        self,
        cluster: Cluster,
        trainers: Trainers,
        view: View,
        queue: WorkQueue[JobKey],
        metrics: Metrics,
        *,
        source: str = "sqs",
        account: str = "",
        region: str = "",
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._trainers = trainers
        self._view = view
        self._queue = queue
        self._metrics = metrics
        self._source = source
        self._account = account
        self._region = region
        self._wall = wall

    async def handle(self, body: str) -> None:
        """Done when no pod is left on the machine whose end nobody has asked for, or its job has come to rest without.

        Raises `Rejected` for what is no event, `TooEarly` while a machine may be a node that no list has shown yet, or what the
        looks threw.
        """
        try:
            event = parse(body, account=self._account, region=self._region)
        except Malformed as error:
            self._count("Malformed")
            raise Rejected(str(error)) from None
        if isinstance(event, Irrelevant):
            self._count(event.why)
            return
        now = self._wall()
        if max(event.at, event.deadline or 0.0) < now - STALE_SECONDS:
            self._count("Stale")
            return
        # Only instances that are nodes now: a forged or foreign notice leaves no trace but this count.
        nodes = {instance_of(node): name for name, node in self._view.nodes.items()}
        known = {instance: nodes[instance] for instance in event.instances if instance in nodes}
        # Who has just started, was stopped, or whose watch lags, does not know a node of which this may be the only notice.
        too_early = len(known) < len(event.instances) and self._view.listed_at < event.at + SKEW_SECONDS
        if known:
            await self._act(event, known, now)
        elif not too_early:
            self._count("NoSuchNode")
        if too_early:
            raise TooEarly(f"no list of nodes is younger than the event; not known: {sorted(set(event.instances) - set(known))}")

    async def _act(self, event: CloudEvent, known: dict[str, str], now: float) -> None:
        self._count(event.kind.value)
        news = self._view.notices.post(event, self._source, now)
        places = [place for node in known.values() for place in self._view.pods_on(node)]
        jobs = {place.job for place in places}
        if news:
            left = round(event.deadline - now) if event.deadline else None
            _log.info("notice", kind=event.kind.value, instances=list(known), seconds_left=left, jobs=len(jobs))
        hit("O7")
        for job in jobs:
            self._queue.add(job, urgent=True)
        told = asyncio.gather(*(self._tell(place, event) for place in places))
        try:
            await self._answered(jobs, known.values())
        finally:
            await told

    async def _tell(self, place: PodPlace, event: CloudEvent) -> None:
        """Tell a trainer of the end of its machine, once; what it is not told now, the look that ends its pod tells it again."""
        ends = announces(event) == "Interruption" and event.deadline is not None and event.deadline > self._wall()
        if not ends or not place.running or not place.ip or place.leaving or place.uid in self._view.told:
            return
        request = self._view.told[place.uid] = CheckpointRequest(source=self._source, deadline=event.deadline)
        try:
            await self._trainers.ask_checkpoint(place.ip, request)
        except Unreachable as error:
            self._view.told.pop(place.uid, None)
            _log.info("trainer not told", namespace=place.job.namespace, job=place.job.name, error=str(error))

    async def _answered(self, jobs: set[JobKey], nodes: Collection[str]) -> None:
        # A process that was stopped, or whose watch lags, does not know yet of a pod that is there.
        for node in nodes:
            for pod in await self._cluster.list_pods(node=node):
                self._view.put_pod(pod)
                jobs.add(JobKey(pod["metadata"]["namespace"], pod["metadata"]["labels"][JOB]))
        await asyncio.gather(*(self._settled(job, nodes) for job in jobs))

    async def _settled(self, job: JobKey, nodes: Collection[str]) -> None:
        """Look until the job has answered: one look may be spent on a conflict or on something that comes first.

        What comes after the pod's end (another machine, another attempt) no longer needs the notice, and others wait for this one.
        """
        self._view.doubted.add(job)
        while True:
            again = await self._queue.next_look(job, urgent=True)
            if again is None or again > CONFLICT_PAUSE or not self._view.stays(job, nodes):
                return

    def _count(self, kind: str) -> None:
        self._metrics.notices.labels(self._source, kind).inc()
