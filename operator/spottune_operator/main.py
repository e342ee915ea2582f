"""The operator process: everything is built here, started together, and stopped together."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

import kopf
import prometheus_client

from spottune_operator import config as configuration
from spottune_operator import handlers, health, logs
from spottune_operator.cluster import Cluster, ClusterError, KubernetesCluster, load_configuration
from spottune_operator.config import Config
from spottune_operator.executor import Clocks, Executor
from spottune_operator.health import Health
from spottune_operator.leadership import Leadership
from spottune_operator.metrics import Metrics
from spottune_operator.notices.desk import NoticeDesk
from spottune_operator.notices.sqs import NoticeQueue, connect
from spottune_operator.planner.types import Settings
from spottune_operator.polling import Pace, Poll
from spottune_operator.rounds import Resync
from spottune_operator.silence import Silence
from spottune_operator.tasks import cancelled
from spottune_operator.trainers import Trainers
from spottune_operator.view import JobKey, View
from spottune_operator.workqueue import Failed, WorkQueue

RARELY = (100_000, 50, 100)
"""Of the garbage collector: parsed lists are large and have no cycles, and to search them for some takes a third of the time of parsing."""

GIL_SECONDS = 0.0005
"""After so long a thread that reads the queue gets its turn beside a busy event loop; Python's own 5 ms add up to a second a receive."""

_log = logs.get(__name__)


async def operate(config: Config) -> None:
    """Run the operator until SIGTERM or SIGINT. Raises if one of its loops ends by itself."""
    clocks, metrics, view = Clocks(), Metrics(), View()
    ears = Health(started=clocks.monotonic())
    access = await load_configuration(config.kubeconfig or None)
    async with AsyncExitStack() as stack:
        cluster = KubernetesCluster(access)
        stack.push_async_callback(cluster.close)
        leadership = _stand(cluster, config, ears, clocks)
        cluster.leads = leadership.leads
        metrics.leader.set_function(leadership.leads)
        stack.push_async_callback(leadership.resign)
        trainers = Trainers(port=config.trainer_port)
        stack.push_async_callback(trainers.close)
        settings = Settings(cluster=config.trainers.cluster, unreachable_grace=config.unreachable_grace_seconds)
        executor = Executor(cluster, trainers, view, defaults=config.trainers, settings=settings, metrics=metrics, clocks=clocks)
        queue = WorkQueue[JobKey](executor.consider, on_failure=Complaints(executor))
        view.pressed = lambda: queue.full
        resync = Resync(cluster, view, executor, queue, ears, metrics, clocks, leadership.leads)
        poll = Poll(view, trainers, queue, metrics, clocks, Pace(config.poll_seconds, config.polls_per_second))
        silence = Silence(cluster, view, queue, clocks)
        server = await health.serve(ears, metrics, host=config.host, port=config.port, clock=clocks.monotonic)
        stack.push_async_callback(server.cleanup)
        notices = _listen(config, cluster, trainers, view, queue, metrics, leadership.leads) if config.queue is not None else None
        if notices is not None:
            stack.callback(notices.stop)

        async def term() -> None:
            """What only the leader does. What was heard before is forgotten: a list of everything tells what is left to do."""
            queue.forget()
            view.forget_reports()
            resync.at_once()
            await asyncio.gather(queue.run(), ask_trainers(), silence.run())

        async def ask_trainers() -> None:
            """Nobody's progress is as urgent as what the jobs themselves say."""
            await resync.considered.wait()
            await poll.run()

        loops: dict[str, Coroutine[Any, Any, None]] = {
            "election": leadership.run(term),
            "resync": resync.run(config.resync_seconds),
        }
        _log.info("operating", cluster=config.trainers.cluster, queue=config.queue.url if config.queue else None)
        ending = asyncio.Event()
        registry = handlers.registry(access, view, queue, ears, cut=resync.watch_cut, ending=ending.set)
        watch = asyncio.create_task(_watch(resync.complete, registry, notices), name="kopf")
        await _until_one_ends([asyncio.create_task(loop, name=name) for name, loop in loops.items()], watch, ending)


async def _watch(listed: asyncio.Event, registry: kopf.OperatorRegistry, notices: NoticeQueue | None) -> None:
    """kopf looks once, at its start, for the kinds that it shall watch: the cluster must answer, and know ours, before.

    Notices, too, are only read when the nodes that they are about are known: what is read is deleted from the queue.
    """
    await listed.wait()
    if notices is not None:
        notices.start()
    await kopf.operator(registry=registry, standalone=True, clusterwide=True)


def _stand(cluster: KubernetesCluster, config: Config, ears: Health, clocks: Clocks) -> Leadership:
    return Leadership(
        cluster,
        namespace=config.namespace,
        me=config.identity,
        seconds=config.lease_seconds,
        monotonic=clocks.monotonic,
        wall=clocks.wall,
        heard=ears.asked,
    )


def _listen(
    config: Config, cluster: Cluster, trainers: Trainers, view: View, queue: WorkQueue[JobKey], metrics: Metrics, leads: Callable[[], bool]
) -> NoticeQueue:
    assert config.queue is not None
    desk = NoticeDesk(cluster, trainers, view, queue, metrics, account=config.account, region=config.queue.region)
    up = metrics.notice_source_up.labels("sqs")
    return NoticeQueue(
        connect(config.queue), config.queue.url, desk.handle, up=lambda answering: up.set(1 if answering else 0), wanted=leads
    )


async def _until_one_ends(tasks: Sequence[asyncio.Task[Any]], watch: asyncio.Task[None], ending: asyncio.Event) -> None:
    """kopf's `watch` ends on a signal, in good order. Whatever else ends, ends the process: it is started again whole.

    `ending`: kopf is about to end. It would wait for five seconds, and then cancel whatever was begun after it: all else ends first.
    """
    end = asyncio.create_task(ending.wait(), name="end")
    everything = [*tasks, watch, end]
    try:
        done, _ = await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await cancelled(everything)
        raise
    await cancelled([task for task in everything if task is not watch])
    if done & {watch, end}:
        await watch
        return
    await cancelled([watch])
    for task in done:
        if not task.cancelled():
            task.result()
        raise RuntimeError(f"the loop {task.get_name()!r} has ended")


class Complaints:
    """What happens when a look threw: it is logged, and a defect of ours is told to the job's user."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._telling: set[asyncio.Task[None]] = set()

    def __call__(self, failed: Failed[JobKey]) -> None:
        where = {"namespace": failed.key.namespace, "job": failed.key.name, "failures": failed.failures}
        again = round(failed.retry_in, 1)
        if isinstance(failed.error, ClusterError):
            _log.warning("look failed", **where, again_in_seconds=again, error=f"{type(failed.error).__name__}: {failed.error}")
            return
        _log.error("look failed by a defect of the operator", **where, again_in_seconds=again, exc_info=failed.error)
        task = asyncio.create_task(self._executor.explain_failure(failed.key, failed.error))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)


def main() -> int:
    """Entry point. Returns the exit code: 0 after a signal, 1 if a loop died."""
    config = configuration.parse(sys.argv[1:], os.environ)
    logs.configure(config.log_level)
    gc.set_threshold(*RARELY)
    sys.setswitchinterval(GIL_SECONDS)
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        asyncio.run(operate(config))
    except Exception:
        _log.exception("the operator ends")
        return 1
    return 0
