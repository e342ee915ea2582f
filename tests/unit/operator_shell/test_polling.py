"""Trainers are asked evenly, with a limit, and none is forgotten: virtual time, trainers that count."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable

import pytest

from spottune_contract.progress import Progress, TrainerPhase
from spottune_operator.allowance import Allowance
from spottune_operator.executor import Clocks
from spottune_operator.metrics import Metrics
from spottune_operator.polling import Pace, Poll
from spottune_operator.trainers import Unreachable
from spottune_operator.view import JobKey, View
from spottune_operator.workqueue import WorkQueue
from tests.fixtures.observations import progress
from tests.fixtures.virtual_time import run_virtually


class Trainers:
    """Each answers after a moment, with one step more than the last time, unless it is silent."""

    def __init__(self, phase: TrainerPhase = TrainerPhase.TRAINING, *, silent: bool = False) -> None:
        self.phase, self.silent = phase, silent
        self.asked: dict[str, list[float]] = defaultdict(list)

    async def progress(self, ip: str) -> Progress:
        self.asked[ip].append(asyncio.get_running_loop().time())
        await asyncio.sleep(2.0 if self.silent else 0.001)
        if self.silent:
            raise Unreachable("no answer")
        return progress(phase=self.phase, step=len(self.asked[ip]))


def pod(number: int) -> dict[str, object]:
    metadata = {"name": f"job-{number}-e1-0", "namespace": "demo", "uid": f"u{number}", "labels": {"spottune.dev/job": f"job-{number}"}}
    return {"metadata": metadata, "spec": {}, "status": {"phase": "Running", "podIP": f"ip-{number}"}}


def polled(
    trainers: Trainers, count: int, seconds: float, pace: Pace, prepare: Callable[[View], None] = lambda view: None
) -> list[tuple[float, str]]:
    """When which job was looked at."""
    looks: list[tuple[float, str]] = []

    async def scenario() -> None:
        async def look(key: JobKey) -> None:
            looks.append((loop.time(), key.name))

        loop, view = asyncio.get_running_loop(), View()
        prepare(view)
        clocks = Clocks(wall=loop.time, monotonic=loop.time)
        queue = WorkQueue[JobKey](look)
        for number in range(count):
            view.put_pod(pod(number))
        poll = Poll(view, trainers, queue, Metrics(), clocks, pace)  # type: ignore[arg-type]
        tasks = [asyncio.create_task(poll.run()), asyncio.create_task(queue.run())]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_virtually(scenario())
    return looks


def longest_gap(trainers: Trainers) -> float:
    return max(b - a for times in trainers.asked.values() for a, b in itertools.pairwise(times))


def most_in_a_second(trainers: Trainers) -> int:
    times = sorted(time for asked in trainers.asked.values() for time in asked)
    return max(sum(1 for t in times if begin <= t < begin + 1) for begin in times[::20])


def test_a_few_trainers_are_asked_every_few_seconds() -> None:
    trainers = Trainers()
    polled(trainers, 10, 60, Pace(5.0, 200.0))
    assert longest_gap(trainers) == pytest.approx(5, abs=0.3)


def test_many_trainers_are_asked_evenly_and_no_more_than_so_many_a_second() -> None:
    trainers = Trainers()
    polled(trainers, 300, 90, Pace(5.0, 20.0))
    assert len(trainers.asked) == 300
    assert most_in_a_second(trainers) <= 26, "20, and a fifth of a second's worth"
    assert longest_gap(trainers) < 17, "300 trainers at 20 a second: each every 15 s"


def test_each_is_asked_every_minute_however_many_there_are() -> None:
    trainers = Trainers()
    polled(trainers, 300, 200, Pace(5.0, 2.0))
    assert len(trainers.asked) == 300
    assert longest_gap(trainers) <= 60
    assert most_in_a_second(trainers) <= 8


def test_one_that_is_not_at_work_yet_is_asked_more_often() -> None:
    trainers = Trainers(TrainerPhase.LOADING)
    polled(trainers, 20, 60, Pace(5.0, 2.0))
    assert longest_gap(trainers) <= 10.5, "20 at 2 a second"
    assert Pace(5.0, 2.0).interval(20) == 10
    few = Trainers(TrainerPhase.LOADING)
    polled(few, 20, 60, Pace(5.0, 200.0))
    assert longest_gap(few) == pytest.approx(5, abs=0.3)


def test_silent_trainers_keep_no_other_waiting_for_long() -> None:
    trainers = Trainers(silent=True)
    polled(trainers, 300, 120, Pace(5.0, 20.0))
    assert len(trainers.asked) == 300
    assert longest_gap(trainers) < 20


def test_steps_alone_have_a_job_looked_at_every_ten_seconds() -> None:
    looks = polled(Trainers(), 2, 61, Pace(5.0, 200.0))
    assert len([time for time, name in looks if name == "job-0"]) == pytest.approx(7, abs=1)


def test_steps_alone_have_nobody_looked_at_while_no_write_is_allowed() -> None:
    def nothing_left(view: View) -> None:
        view.steps = Allowance(0.0)
        view.steps.take()

    assert len(polled(Trainers(), 50, 61, Pace(5.0, 200.0), nothing_left)) == 50, "first words are news"


def test_steps_alone_have_nobody_looked_at_while_other_jobs_wait_for_a_look() -> None:
    def others_wait(view: View) -> None:
        view.pressed = lambda: True

    assert len(polled(Trainers(), 50, 61, Pace(5.0, 200.0), others_wait)) == 50, "first words are news"
