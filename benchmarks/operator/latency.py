"""How long a change waits for its answer, without and with trainers that are asked for their progress all the time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.operator import audit
from benchmarks.operator.api import JOBS, Api, Json
from benchmarks.operator.hollow import Job, crowd
from benchmarks.operator.installation import Installation, Operator, installation, percentile
from benchmarks.operator.trainers import Trainers, trainers
from benchmarks.report import Figure

RATE = 150.0
QUICK_RATE = 15.0
NEVER = "100000"
REST = 25.0


@dataclass
class Timing:
    """When each edit of a spec was sent, when a bare watch told of it, when the operator's answer to it came by the same watch."""

    sent: dict[tuple[str, int], float] = field(default_factory=dict)
    seen: dict[tuple[str, int], float] = field(default_factory=dict)
    answered: dict[tuple[str, int], float] = field(default_factory=dict)
    generation: dict[str, int] = field(default_factory=dict)
    _told: dict[str, tuple[int, int]] = field(default_factory=dict)

    def edit(self, uid: str, at: float) -> None:
        """An edit is about to be sent: the API server will count it as the next generation."""
        self.generation[uid] = self.generation.get(uid, 1) + 1
        self.sent[uid, self.generation[uid]] = at

    def event(self, job: Json, at: float) -> None:
        uid, generation = job["metadata"]["uid"], job["metadata"]["generation"]
        observed = job.get("status", {}).get("observedGeneration", 0)
        known, answered = self._told.get(uid, (1, 1))
        self.seen |= {(uid, g): at for g in range(known + 1, generation + 1)}
        self.answered |= {(uid, g): at for g in range(answered + 1, observed + 1)}
        self._told[uid] = max(known, generation), max(answered, observed)

    def milliseconds(self, heard: dict[tuple[str, int], float]) -> list[float]:
        """From sending to hearing, for every edit that was heard of."""
        return [(heard[key] - at) * 1e3 for key, at in self.sent.items() if key in heard]

    @property
    def open(self) -> int:
        return len(self.sent.keys() - self.answered.keys())


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
        rate = len(self.bare) / self.seconds
        medians = f"median {percentile(self.reconcile, 0.5):.0f} ms, bare watch {percentile(self.bare, 0.5):.0f} ms, its p99 {self.bare_p99:.0f} ms"
        lost = f"; {self.unanswered} not answered" if self.unanswered else ""
        return f"{medians}; {len(self.bare)} changes, {rate:.0f}/s, each answered by a status write{lost}; CPU: {self.cpu}"


async def load(where: Installation, operator: Operator, jobs: Sequence[Job], timing: Timing, seconds: float, rate: float) -> Load:
    """Edit specs at this rate, whether or not the ones before were answered."""
    api, pending, written = where.api, set[asyncio.Task[object]](), where.audit.size()
    first = dict(timing.sent)
    before, began = where.cpu(operator.pid), time.monotonic()
    for number in range(int(seconds * rate)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        job = jobs[number * 7919 % len(jobs)]
        timing.edit(job.uid, time.monotonic())
        body = {"spec": {"maxDuration": f"{100_000 + timing.generation[job.uid]}s"}}
        task: asyncio.Task[object] = asyncio.create_task(api.call("PATCH", job.path, body))
        pending.add(task)
        task.add_done_callback(pending.discard)
    took = time.monotonic() - began
    after = where.cpu(operator.pid)
    await asyncio.gather(*pending)
    give_up = time.monotonic() + 30
    while timing.open and time.monotonic() < give_up:
        await asyncio.sleep(0.1)
    here = Timing({key: at for key, at in timing.sent.items() if key not in first}, timing.seen, timing.answered)
    cpu, writes = shares(before, after, took, operator.pid), where.audit.since(written)
    return Load(here.milliseconds(here.seen), here.milliseconds(here.answered), here.open, took, cpu, writes)


def shares(before: dict[str, float], after: dict[str, float], seconds: float, operator: int) -> str:
    """CPU of each process as a share of one core."""
    names = {str(operator): "operator", "kube-apiserver": "API server", "etcd": "etcd"}
    return ", ".join(f"{name} {100 * (after[key] - before[key]) / seconds:.0f} %" for key, name in names.items())


async def listen(api: Api, timing: Timing) -> None:
    """The bare watch: it does nothing but to look at the clock."""
    async for _, job in api.watch(JOBS):
        timing.event(job, time.monotonic())


async def _measure(count: int, rate: float, quiet: float, polled: float) -> Sequence[Figure]:
    with trainers() as hollow:
        async with installation() as where, crowd(where, hollow, count) as jobs:
            timing = Timing()
            listening = asyncio.create_task(listen(where.api, timing))
            async with _operating(where, hollow, NEVER) as operator:
                written = where.audit.size()
                await asyncio.sleep(REST)
                idle = where.audit.since(written)
                without = await load(where, operator, jobs, timing, quiet, rate)
            hollow.tell(moving=True)
            async with _operating(where, hollow, "5") as operator:
                polling = await load(where, operator, jobs, timing, polled, rate)
                counted = hollow.tell()
            listening.cancel()
    return _figures(f"{count:,} jobs, {rate:g} changes/s", idle, without, polling, counted)


@asynccontextmanager
async def _operating(where: Installation, hollow: Trainers, poll: str) -> AsyncIterator[Operator]:
    operator = Operator(where, "--poll-seconds", poll, "--trainer-port", str(hollow.port))
    try:
        yield await operator.await_leading()
    finally:
        operator.kill()


def _figures(size: str, idle: Counter[str], without: Load, polling: Load, counted: Json) -> Sequence[Figure]:
    rate = counted["requests"] / counted["seconds"]
    answers = len(without.reconcile)
    return [
        Figure(
            "writes when nothing changes",
            audit.but_the_lease(idle),
            "",
            goal=0,
            detail=f"in {REST:g} s after a restart: {audit.told(idle)}",
        ),
        Figure(
            "writes per answered spec edit, events left out",
            audit.beside_pods_and_events(without.writes) / max(1, answers),
            "",
            goal=1,
            detail=f"{answers} answers: {audit.told(without.writes)}",
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
        Figure("the same to that without polling", polling.p99 / without.p99, "×", detail="every answer has a new step, which is written"),
    ]


def measure(quick: bool) -> Sequence[Figure]:
    """5,000 jobs, one minute without and two with polling; if `quick`, 100 jobs, a tenth of the changes and a few seconds."""
    return asyncio.run(_measure(100, QUICK_RATE, 8, 12) if quick else _measure(5000, RATE, 60, 120))
