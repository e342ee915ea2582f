"""How long a job whose pod is gone waits for its next one, where there is room for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from benchmarks.operator.api import PODS
from benchmarks.operator.hollow import Job, Kubelets, crowd
from benchmarks.operator.installation import Installation, installation, percentile
from benchmarks.operator.latency import operating
from benchmarks.operator.trainers import trainers
from benchmarks.report import Figure
from spottune_contract.labels import EPOCH, JOB
from spottune_operator.tasks import cancelled

RATE = 1.5


class Pods:
    """When the first attempt's pod of each job went, and when the second one's came, as a bare watch tells."""

    def __init__(self) -> None:
        self.gone: dict[str, float] = {}
        self.made: dict[str, float] = {}

    def hear(self, kind: str, labels: dict[str, str], at: float) -> None:
        job, epoch = labels.get(JOB, ""), labels.get(EPOCH)
        if kind == "DELETED" and epoch == "1":
            self.gone[job] = at
        elif kind == "ADDED" and epoch == "2":
            self.made[job] = at

    def seconds(self) -> list[float]:
        return [self.made[job] - at for job, at in self.gone.items() if job in self.made]


async def _lose(where: Installation, jobs: Sequence[Job], pods: Pods) -> None:
    """Take away one pod after the other, as a node does that goes without a word, and wait until all are replaced."""
    began = time.monotonic()
    for number, job in enumerate(jobs):
        await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        await where.api.call("DELETE", job.pod_path, {"gracePeriodSeconds": 0})
    give_up = time.monotonic() + 30
    while len(pods.made) < len(jobs) and time.monotonic() < give_up:
        await asyncio.sleep(0.1)


async def _measure(count: int, losses: int, settle: float) -> Sequence[Figure]:
    pods = Pods()

    async def listen() -> None:
        async for kind, pod in where.api.watch(PODS):
            pods.hear(kind, pod["metadata"].get("labels") or {}, time.monotonic())

    with trainers() as hollow:
        async with installation() as where, crowd(where, hollow, count) as jobs:
            listening = asyncio.create_task(listen())
            async with Kubelets.at_work(where.api, hollow, count), operating(where, hollow):
                await asyncio.sleep(settle)
                await _lose(where, jobs[:: count // losses][:losses], pods)
            await cancelled([listening])
    seconds = pods.seconds() or [float("inf")]
    missing = f"; {losses - len(pods.seconds())} not replaced" if len(pods.seconds()) < losses else ""
    told = f"median {percentile(seconds, 0.5):.2f} s; {losses} pods of {count:,} jobs, {RATE:g}/s, deleted without grace{missing}"
    return [Figure("replacement: pod gone to next pod made, p99", percentile(seconds, 0.99), "s", goal=2, detail=told)]


def measure(quick: bool) -> Sequence[Figure]:
    """60 pods of 2,000 jobs; if `quick`, 10 of 50."""
    return asyncio.run(_measure(50, 10, 8) if quick else _measure(2000, 60, 30))
