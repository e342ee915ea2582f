"""A job over which the operator throws is set aside: condition, event, metric, backoff; all others go on. Real queue, virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from spottune_operator.api.v1alpha1 import FineTuneJobStatus
from spottune_operator.cluster import ClusterError, Conflict, Unavailable
from spottune_operator.executor import Clocks, Executor
from spottune_operator.health import Health
from spottune_operator.main import Complaints
from spottune_operator.manifests import TrainerDefaults
from spottune_operator.metrics import Metrics
from spottune_operator.planner.types import Settings
from spottune_operator.rounds import Resync
from spottune_operator.trainers import Trainers
from spottune_operator.view import JobKey, View
from spottune_operator.workqueue import WorkQueue
from tests.fixtures.memory_cluster import MemoryCluster
from tests.fixtures.virtual_time import run_virtually

pytestmark = pytest.mark.usefixtures("no_log_lines")

EPOCH = 1_800_000_000.0


class Installation:
    """An operator's queue, executor and resync on a cluster in memory. Job `poison` makes it throw until it is cured."""

    def __init__(self) -> None:
        self.cluster, self.view, self.metrics = MemoryCluster(), View(), Metrics()
        self.looks: list[tuple[float, str]] = []
        self.clock = lambda: asyncio.get_running_loop().time()
        clocks = Clocks(wall=lambda: EPOCH + self.clock(), monotonic=self.clock)
        defaults = TrainerDefaults(cluster="test", image="trainer:1")
        self.trainers = Trainers()
        self.executor = Executor(
            self.cluster,
            self.trainers,
            self.view,
            defaults=defaults,
            settings=Settings(),
            metrics=self.metrics,
            clocks=clocks,
        )
        self.queue = WorkQueue[JobKey](self._look, on_failure=Complaints(self.executor), chance=lambda: 0.0)
        self.resync = Resync(self.cluster, self.view, self.executor, self.queue, Health(started=0.0), self.metrics, clocks, lambda: True)

    async def _look(self, key: JobKey) -> float | None:
        self.looks.append((self.clock(), key.name))
        return await self.executor.look(key)

    def poison(self) -> None:
        self.cluster.add_job("poison")
        # No API server would say so: whatever makes the operator throw is by nature something nobody thought of.
        self.cluster.jobs["demo", "poison"]["metadata"]["generation"] = "not a number"

    def cure(self) -> None:
        self.cluster.jobs["demo", "poison"]["metadata"]["generation"] = 2

    def handled(self, job: str) -> tuple[str, str] | None:
        status = FineTuneJobStatus.parse(self.cluster.jobs["demo", job].get("status"))
        return next(((c.status, c.reason.value) for c in status.conditions if c.type.value == "Handled"), None)

    def value(self, series: str) -> float:
        return float(self.metrics.registry.get_sample_value(series) or 0.0)

    def told(self) -> list[str]:
        return [event["involvedObject"]["name"] for event in self.cluster.events.values() if event["reason"] == "Internal"]


def run(scenario: Callable[[Installation], Awaitable[None]]) -> None:
    async def whole() -> None:
        installation = Installation()
        loops = [asyncio.create_task(installation.queue.run()), asyncio.create_task(installation.resync.run())]
        await scenario(installation)
        for loop in loops:
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop
        await installation.trainers.close()

    run_virtually(whole())


def test_a_job_that_makes_the_operator_throw_is_set_aside_and_the_others_go_on() -> None:
    async def scenario(it: Installation) -> None:
        it.poison()
        for number in range(20):
            it.cluster.add_job(f"good-{number}")
        await asyncio.sleep(300)
        assert it.handled("poison") == ("False", "Internal")
        assert it.told() == ["poison"]
        assert it.value("spottune_jobs_set_aside") == 1
        times = [time for time, name in it.looks if name == "poison"]
        assert it.metrics.registry.get_sample_value("spottune_looks_total", {"outcome": "ValueError"}) == len(times)
        assert len(times) <= 14, "its backoff grows, however often the resync finds it"
        assert max(b - a for a, b in itertools.pairwise(times)) == pytest.approx(60, abs=1)
        assert {name for _, name in it.cluster.pods} == {f"good-{n}-e1-0" for n in range(20)}
        assert not any(it.handled(f"good-{n}") for n in range(20))

    run(scenario)


def test_what_is_told_once_is_not_written_again() -> None:
    async def scenario(it: Installation) -> None:
        it.poison()
        await asyncio.sleep(30)
        before = list(it.cluster.writes)
        await asyncio.sleep(300)
        assert it.cluster.writes == before

    run(scenario)


def test_once_it_can_be_handled_again_the_job_goes_on_and_says_so() -> None:
    async def scenario(it: Installation) -> None:
        it.poison()
        await asyncio.sleep(30)
        it.cure()
        await asyncio.sleep(61)
        assert ("demo", "poison-e1-0") in it.cluster.pods
        assert it.handled("poison") == ("True", "Recovered")
        assert it.queue.set_aside == 0
        before = list(it.cluster.writes)
        await asyncio.sleep(100)
        assert it.cluster.writes == before
        assert it.value("spottune_jobs_set_aside") == 0

    run(scenario)


@pytest.mark.parametrize("refusal", [Conflict("changed"), Unavailable("timed out")], ids=["a conflict", "no answer"])
def test_what_could_not_be_told_at_first_is_told_later(refusal: ClusterError) -> None:
    async def scenario(it: Installation) -> None:
        it.cluster.refuse["status"] = [refusal] * 2
        it.poison()
        await asyncio.sleep(30)
        assert it.handled("poison") == ("False", "Internal")
        assert it.told() == ["poison"]

    run(scenario)


def test_a_broken_job_without_a_readable_status_stops_nobody() -> None:
    async def scenario(it: Installation) -> None:
        it.poison()
        broken: dict[str, Any] = {"phase": "Sideways", "attempt": "many", "conditions": 5, "attempts": [{"epoch": None}]}
        it.cluster.jobs["demo", "poison"]["status"] = broken
        it.cluster.add_job("good")
        await asyncio.sleep(30)
        assert ("demo", "good-e1-0") in it.cluster.pods
        assert it.handled("poison") == ("False", "Internal")

    run(scenario)
