"""An operator that does not lead: it lists and looks after its health, and has nothing done."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kubernetes.aio.client.configuration import Configuration

from spottune_operator.cluster import KubernetesCluster, NotLeading, Unavailable
from spottune_operator.executor import Clocks, Executor
from spottune_operator.health import Health
from spottune_operator.manifests import TrainerDefaults
from spottune_operator.metrics import Metrics
from spottune_operator.planner.types import Obstacle, ObstacleKind, Settings
from spottune_operator.rounds import Resync
from spottune_operator.tasks import cancelled
from spottune_operator.trainers import Trainers
from spottune_operator.view import JobKey, View
from spottune_operator.workqueue import WorkQueue
from tests.fixtures.memory_cluster import MemoryCluster
from tests.fixtures.observations import progress
from tests.fixtures.virtual_time import run_virtually


@pytest.mark.parametrize("leads", [False, True])
async def test_only_a_leader_has_jobs_looked_at(leads: bool) -> None:
    cluster, view, metrics, clocks, health, trainers = MemoryCluster(), View(), Metrics(), Clocks(), Health(started=0.0), Trainers()
    cluster.add_job("job")
    defaults = TrainerDefaults(cluster="test", image="trainer:1")
    executor = Executor(cluster, trainers, view, defaults=defaults, settings=Settings(), metrics=metrics, clocks=clocks)
    queue = WorkQueue[JobKey](executor.look)
    assert await Resync(cluster, view, executor, queue, health, metrics, clocks, lambda: leads).once()
    assert len(queue) == leads
    assert ('spottune_jobs{phase="Pending"} 1.0' in metrics.exposition().decode()) == leads
    assert health.synced > 0
    assert cluster.writes == []
    await trainers.close()


def test_who_begins_to_lead_considers_what_it_knows_before_the_next_list() -> None:
    async def scenario() -> None:
        cluster, view, metrics, trainers, leads = MemoryCluster(), View(), Metrics(), Trainers(), asyncio.Event()
        clocks = Clocks(wall=lambda: 1_800_000_000.0, monotonic=asyncio.get_running_loop().time)
        defaults = TrainerDefaults(cluster="test", image="trainer:1")
        executor = Executor(cluster, trainers, view, defaults=defaults, settings=Settings(), metrics=metrics, clocks=clocks)
        queue = WorkQueue[JobKey](executor.consider)
        resync = Resync(cluster, view, executor, queue, Health(started=0.0), metrics, clocks, leads.is_set)
        cluster.add_job("job")
        running = asyncio.create_task(resync.run())
        await resync.complete.wait()
        cluster.refuse["list"] = [Unavailable("no answer")] * 100
        assert len(queue) == 0
        leads.set()
        resync.at_once()
        await asyncio.sleep(1)
        assert len(queue) == 1
        await cancelled([running])
        await trainers.close()

    run_virtually(scenario())


def test_a_watch_that_was_cut_is_made_up_for_by_lists_until_it_is_back() -> None:
    """kopf lists anew when the version from which it would go on is too old, and tells nothing of what has vanished meanwhile."""
    began = list[float]()

    class Counting(MemoryCluster):
        async def list_nodes(self) -> list[dict[str, Any]]:
            began.append(asyncio.get_running_loop().time())
            return await super().list_nodes()

    async def scenario() -> None:
        view, metrics, trainers, loop = View(), Metrics(), Trainers(), asyncio.get_running_loop()
        clocks = Clocks(wall=lambda: 1_800_000_000.0, monotonic=loop.time)
        cluster, defaults = Counting(), TrainerDefaults(cluster="test", image="trainer:1")
        executor = Executor(cluster, trainers, view, defaults=defaults, settings=Settings(), metrics=metrics, clocks=clocks)
        resync = Resync(cluster, view, executor, WorkQueue[JobKey](executor.look), Health(started=0.0), metrics, clocks, lambda: False)
        running = asyncio.create_task(resync.run(10.0))
        for at in (4.0, 4.5, 6.0):
            loop.call_later(at, resync.watch_cut)
        await asyncio.sleep(30)
        await cancelled([running])
        await trainers.close()

    run_virtually(scenario())
    assert [round(at, 1) for at in began] == [0.0, 4.0, 5.0, 6.0, 7.0, 8.0, 18.0, 28.0]


async def test_it_is_known_when_the_last_complete_list_began() -> None:
    """What the nodes were before that moment is known; about what came up later nothing can be said."""
    now = iter(range(1000))
    cluster, view, metrics, health, trainers = MemoryCluster(), View(), Metrics(), Health(started=0.0), Trainers()
    clocks = Clocks(wall=lambda: float(next(now)), monotonic=lambda: 0.0)
    defaults = TrainerDefaults(cluster="test", image="trainer:1")
    executor = Executor(cluster, trainers, view, defaults=defaults, settings=Settings(), metrics=metrics, clocks=clocks)
    resync = Resync(cluster, view, executor, WorkQueue[JobKey](executor.look), health, metrics, clocks, lambda: False)
    cluster.refuse["list"] = [Unavailable("no answer")]
    assert not await resync.once()
    assert view.listed_at == float("-inf")
    began = next(now) + 1
    assert await resync.once()
    assert view.listed_at == began
    await trainers.close()


def test_a_new_term_does_not_act_on_what_was_told_in_an_earlier_one() -> None:
    view = View()
    view.progress["pod"] = progress()
    view.obstacles["job"] = Obstacle(ObstacleKind.DENIED, 3, "no", 0.0)
    view.forget_reports()
    assert (view.progress, view.obstacles) == ({}, {})


@pytest.mark.parametrize("leads", [False, True])
async def test_no_write_leaves_the_process_while_another_operator_may_lead(leads: bool) -> None:
    cluster = KubernetesCluster(Configuration(host="http://127.0.0.1:1"))
    cluster.leads = lambda: leads
    meta = {"name": "n", "namespace": "ns", "uid": "u", "resourceVersion": "1"}
    writes = (
        lambda: cluster.replace_status({"metadata": meta, "spec": {}}, {}),
        lambda: cluster.create_pod({"metadata": meta}),
        lambda: cluster.delete_pod("ns", "n", uid="u", grace_seconds=1),
        lambda: cluster.create_event({"metadata": meta}),
        lambda: cluster.patch_event("ns", "n", {}),
    )
    for write in writes:
        with pytest.raises(Unavailable if leads else NotLeading):
            await write()
    for always in (lambda: cluster.get_job("ns", "n"), lambda: cluster.put_lease({"metadata": meta})):
        with pytest.raises(Unavailable):
            await always()
    await cluster.close()
