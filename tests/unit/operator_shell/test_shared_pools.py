"""What one job has met in a pool helps the next one, through the statuses alone: an operator that has just started knows it too."""

from __future__ import annotations

from spottune_contract.labels import POOL
from spottune_operator.api.v1alpha1 import FineTuneJobStatus
from spottune_operator.executor import AT_ONCE, Clocks, Executor
from spottune_operator.health import Health
from spottune_operator.manifests import TrainerDefaults
from spottune_operator.metrics import Metrics
from spottune_operator.planner import pools
from spottune_operator.planner.types import Settings
from spottune_operator.rounds import Resync
from spottune_operator.trainers import Trainers
from spottune_operator.view import JobKey, View
from spottune_operator.workqueue import WorkQueue
from tests.fixtures.memory_cluster import MemoryCluster

NOW = 1_800_000_000.0
FIRST, SECOND = "t1/z1/spot", "t1/z2/spot"
CAPACITY = {"instanceTypes": ["t1"], "zones": ["z1", "z2"]}


async def pool_of_a_new_job(cluster: MemoryCluster) -> str:
    """Where a fresh operator sends `new` after its first resync."""
    cluster.add_job("new", capacity=CAPACITY)
    view, metrics, clocks = View(), Metrics(), Clocks(wall=lambda: NOW, monotonic=lambda: NOW)
    defaults, trainers = TrainerDefaults(cluster="test", image="trainer:1"), Trainers()
    executor = Executor(cluster, trainers, view, defaults=defaults, settings=Settings(), metrics=metrics, clocks=clocks)
    queue = WorkQueue[JobKey](executor.look)
    assert await Resync(cluster, view, executor, queue, Health(started=NOW), metrics, clocks, lambda: True).once()
    while await executor.look(JobKey("demo", "new")) == AT_ONCE:
        """Until there is nothing to do at once."""
    await trainers.close()
    return str(cluster.pods["demo", "new-e1-0"]["metadata"]["annotations"][POOL])


def other_job(cluster: MemoryCluster, **status: object) -> None:
    cluster.add_job("other", capacity=CAPACITY)
    cluster.jobs["demo", "other"]["status"] = FineTuneJobStatus.model_validate({"phase": "Succeeded", **status}).document()


async def test_without_other_jobs_the_first_pool_of_the_spec_is_used() -> None:
    assert await pool_of_a_new_job(MemoryCluster()) == FIRST


async def test_a_pool_that_has_just_interrupted_another_job_is_avoided() -> None:
    cluster = MemoryCluster()
    other_job(cluster, pools=pools.interrupted((), FIRST, NOW - 60))
    assert await pool_of_a_new_job(cluster) == SECOND


async def test_a_pool_in_which_another_job_found_no_machine_is_avoided() -> None:
    cluster = MemoryCluster()
    other_job(cluster, pools=pools.without_capacity((), FIRST, NOW - 10))
    assert await pool_of_a_new_job(cluster) == SECOND


async def test_old_trouble_of_another_job_is_forgotten() -> None:
    cluster = MemoryCluster()
    other_job(cluster, pools=pools.without_capacity(pools.interrupted((), FIRST, NOW - 600), FIRST, NOW - 600))
    assert await pool_of_a_new_job(cluster) == FIRST
