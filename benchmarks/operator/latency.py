"""How long a change waits for its answer, without and with trainers that are asked for their progress all the time.

Every change is one that the operator has to decide about; most need no answer, some need a status write. An answer costs the API server
25 ms of CPU, so on two cores that also carry etcd, the operator and the load few of the changes can be of that kind.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.operator import audit
from benchmarks.operator.api import JOBS, PODS, Json
from benchmarks.operator.hollow import Job, crowd, now
from benchmarks.operator.installation import Installation, Operator, installation, percentile
from benchmarks.operator.trainers import Trainers, trainers
from benchmarks.report import Figure
from spottune_operator.tasks import cancelled

RATE = 150.0
ANSWERED = 10.0
"""Changes per second that need an answer."""
NEVER = "0.02"
"""Questions per second to all trainers: none that matters."""
REST = 25.0
SETTLE = 30.0
"""Seconds for an operator that has started to have taken everything in."""


@dataclass
class Timing:
    """When each change was sent, when a bare watch told of it, when the operator's answer to it came by the same watch.

    A job's changes are numbered by its generation, a pod's by the reason of its condition `Ready`.
    """

    sent: dict[tuple[str, int], float] = field(default_factory=dict)
    seen: dict[tuple[str, int], float] = field(default_factory=dict)
    answered: dict[tuple[str, int], float] = field(default_factory=dict)
    latest: dict[str, Json] = field(default_factory=dict)
    """Jobs as the watch told of them last."""
    _edited: set[tuple[str, int]] = field(default_factory=set)
    _told: dict[str, tuple[int, int]] = field(default_factory=dict)

    def edit(self, uid: str, generation: int, at: float) -> None:
        """A spec is about to become this generation, to which there will be an answer."""
        self.sent[uid, generation] = at
        self._edited.add((uid, generation))

    def touch(self, uid: str, number: int, at: float) -> None:
        """A pod is about to be changed; there will be no answer."""
        self.sent[uid, number] = at

    def job(self, job: Json, at: float) -> None:
        uid, generation = job["metadata"]["uid"], job["metadata"]["generation"]
        self.latest[uid] = job
        observed = job.get("status", {}).get("observedGeneration", 0)
        known, answered = self._told.get(uid, (1, 1))
        self.seen |= {(uid, g): at for g in range(known + 1, generation + 1)}
        self.answered |= {(uid, g): at for g in range(answered + 1, observed + 1)}
        self._told[uid] = max(known, generation), max(answered, observed)

    def pod(self, pod: Json, at: float) -> None:
        reason = next((c.get("reason") or "" for c in pod["status"].get("conditions") or () if c["type"] == "Ready"), "")
        if reason.startswith("Touched"):
            self.seen.setdefault((pod["metadata"]["uid"], int(reason.removeprefix("Touched"))), at)

    def milliseconds(self, heard: dict[tuple[str, int], float], since: float) -> list[float]:
        """From sending to hearing, for every change sent since then that was heard of."""
        return [(heard[key] - at) * 1e3 for key, at in self.sent.items() if at >= since and key in heard]

    @property
    def open(self) -> int:
        return len(self._edited - self.answered.keys())


@dataclass(frozen=True)
class Load:
    """What one stretch of load has shown."""

    bare: list[float]
    reconcile: list[float]
    unanswered: int
    seconds: float
    cpu: str
    writes: Counter[str]

    @property
    def p99(self) -> float:
        return percentile(self.reconcile, 0.99)

    @property
    def bare_p99(self) -> float:
        return percentile(self.bare, 0.99)

    def told(self) -> str:
        rate, answers = len(self.bare) / self.seconds, len(self.reconcile) / self.seconds
        medians = f"median {percentile(self.reconcile, 0.5):.0f} ms; bare watch {percentile(self.bare, 0.5):.0f} ms, its p99 {self.bare_p99:.0f} ms"
        lost = f"; {self.unanswered} not answered" if self.unanswered else ""
        kinds = f"{rate:.0f} changes/s, {answers:.0f}/s of them edits of a spec, answered by a status write{lost}, the others of a pod's condition"
        return f"{medians}; {kinds}; CPU: {self.cpu}; writes: {audit.told(self.writes)}"


class Changes:
    """Changes jobs and pods, as another API server of the cluster would."""

    def __init__(self, where: Installation, jobs: Sequence[Job], timing: Timing) -> None:
        self._where, self._jobs, self._timing = where, jobs, timing
        self._number = 0
        self._pending: set[asyncio.Task[None]] = set()

    def begin(self, *, answered: bool) -> None:
        """One change of another job than the last one's."""
        self._number += 1
        job = self._jobs[self._number * 7919 % len(self._jobs)]
        task = asyncio.create_task(self._edit(job) if answered else self._touch(job, self._number))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def done(self) -> None:
        await asyncio.gather(*self._pending)

    async def _edit(self, job: Job) -> None:
        while True:
            latest = self._timing.latest[job.uid]
            generation = latest["metadata"]["generation"] + 1
            edited = latest | {
                "metadata": latest["metadata"] | {"generation": generation},
                "spec": latest["spec"] | {"maxDuration": f"{100_000 + generation}s"},
            }
            self._timing.edit(job.uid, generation, time.monotonic())
            if await self._where.etcd.swap(job.key, edited, latest["metadata"]["resourceVersion"]):
                return
            await asyncio.sleep(0.05)

    async def _touch(self, job: Job, number: int) -> None:
        pod = job.pod
        others = [c for c in pod["status"]["conditions"] if c["type"] != "Ready"]
        ready = {"type": "Ready", "status": "True", "reason": f"Touched{number}", "lastTransitionTime": now()}
        self._timing.touch(job.pod_uid, number, time.monotonic())
        await self._where.etcd.put([(job.pod_key, pod | {"status": pod["status"] | {"conditions": [*others, ready]}})])


async def load(where: Installation, operator: Operator, changes: Changes, timing: Timing, seconds: float, rate: float) -> Load:
    """Make changes at this rate, whether or not the ones before were answered."""
    written, every = where.audit.size(), round(RATE / ANSWERED)
    before, began = where.cpu(operator.pid), time.monotonic()
    for number in range(int(seconds * rate)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        changes.begin(answered=number % every == 0)
    took = time.monotonic() - began
    after = where.cpu(operator.pid)
    await changes.done()
    give_up = time.monotonic() + 30
    while timing.open and time.monotonic() < give_up:
        await asyncio.sleep(0.1)
    bare, answers = timing.milliseconds(timing.seen, began), timing.milliseconds(timing.answered, began)
    return Load(bare, answers, timing.open, took, shares(before, after, took, operator.pid), where.audit.since(written))


def shares(before: dict[str, float], after: dict[str, float], seconds: float, operator: int) -> str:
    """CPU of each process as a share of one core."""
    names = {str(operator): "operator", "kube-apiserver": "API server", "etcd": "etcd"}
    return ", ".join(f"{name} {100 * (after[key] - before[key]) / seconds:.0f} %" for key, name in names.items())


@asynccontextmanager
async def listening(where: Installation, timing: Timing, jobs: Sequence[Job]) -> AsyncIterator[None]:
    """The bare watch: it does nothing but to look at the clock."""

    async def listen_to_jobs() -> None:
        async for _, job in where.api.watch(JOBS):
            timing.job(job, time.monotonic())

    async def listen_to_pods() -> None:
        async for _, pod in where.api.watch(PODS):
            timing.pod(pod, time.monotonic())

    tasks = [asyncio.create_task(listen_to_jobs()), asyncio.create_task(listen_to_pods())]
    try:
        while len(timing.latest) < len(jobs):
            await asyncio.sleep(0.1)
        yield
    finally:
        await cancelled(tasks)


async def _measure(count: int, rate: float, settle: float, quiet: float, polled: float) -> Sequence[Figure]:
    timing = Timing()
    with trainers() as hollow:
        async with installation() as where, crowd(where, hollow, count) as jobs, listening(where, timing, jobs):
            changes = Changes(where, jobs, timing)
            async with operating(where, hollow, "--polls-per-second", NEVER) as operator:
                await asyncio.sleep(settle)
                written = where.audit.size()
                await asyncio.sleep(REST)
                idle = where.audit.since(written)
                without = await load(where, operator, changes, timing, quiet, rate)
            hollow.tell(moving=True)
            async with operating(where, hollow) as operator:
                await asyncio.sleep(settle)
                hollow.tell(moving=True)
                polling = await load(where, operator, changes, timing, polled, rate)
                counted = hollow.tell()
    return _figures(f"{count:,} jobs, {rate:g} changes/s", idle, without, polling, counted)


@asynccontextmanager
async def operating(where: Installation, hollow: Trainers, *arguments: str) -> AsyncIterator[Operator]:
    operator = Operator(where, "--trainer-port", str(hollow.port), *arguments)
    try:
        yield await operator.await_leading()
    finally:
        operator.kill()


def _figures(size: str, idle: Counter[str], without: Load, polling: Load, counted: Json) -> Sequence[Figure]:
    rate = counted["requests"] / counted["seconds"]
    return [
        Figure(
            "writes when nothing changes",
            audit.but_the_lease(idle),
            "",
            goal=0,
            detail=f"in {REST:g} s after a restart: {audit.told(idle)}",
        ),
        Figure(f"reconcile latency p99, {size}", without.p99, "ms", goal=100, detail=without.told()),
        Figure("the same to a bare watch loop", without.p99 / without.bare_p99, "×", goal=10),
        Figure(
            "progress polling",
            rate,
            "requests/s",
            goal=200,
            detail=f"{counted['requests']} requests to {counted['trainers']} trainers in {counted['seconds']:.0f} s",
        ),
        Figure("longest time between two questions to one trainer", counted["gap"], "s", goal=60),
        Figure("reconcile latency p99 with polling", polling.p99, "ms", goal=100, detail=polling.told()),
        Figure("the same to that without polling", polling.p99 / without.p99, "×", detail="every trainer makes a step a second"),
    ]


def measure(quick: bool) -> Sequence[Figure]:
    """5,000 jobs, 45 s without and 75 s with polling; if `quick`, 100 jobs, a tenth of the changes and a few seconds."""
    return asyncio.run(_measure(100, RATE / 10, 3, 8, 12) if quick else _measure(5000, RATE, SETTLE, 45, 75))
