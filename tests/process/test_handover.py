"""A paused trainer whose successor has claimed: back again, it ends with 11, and nothing it then writes is ever read."""

from __future__ import annotations

import random
import signal
import statistics
import time
from dataclasses import dataclass

import pytest

from spottune_contract.progress import Termination
from tests.fixtures.trainerprocess import Bench, Job, Trainer

pytestmark = [pytest.mark.process, pytest.mark.storage]

STATE = ("adapter.safetensors", "optimizer.safetensors", "history.safetensors")
AFTERLIFE_SECONDS = 30.0
"""A process that was fenced lives no longer than this after SIGCONT, on a machine that is busy with its successor."""
BEFORE_CLAIM, DURING, AFTER_FINAL = ["T1"], ["T2", "T3", "T4", "T5", "T6", "T7", "T8", "T10"], ["T11", "T12"]


@dataclass(frozen=True)
class Afterlife:
    """What a process did after SIGCONT."""

    code: int
    seconds: float
    saves: int
    """Saves of which it stored at least one object."""


def keys(bench: Bench, job: Job) -> set[str]:
    """Relative keys of everything in the job's location."""
    pages = bench.store.client().get_paginator("list_objects_v2").paginate(Bucket=bench.bucket, Prefix="jobs/")
    found = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return {key.partition(f"{job.uid}/")[2] for key in found if f"{job.uid}/" in key}


def saves(bench: Bench, job: Job, epoch: int) -> set[str]:
    """The saves of which an epoch has stored data."""
    return {key.rpartition("/")[0] for key in keys(bench, job) if key.startswith(f"data/e{epoch:04d}-")}


def awakened(bench: Bench, job: Job, old: Trainer, epoch: int) -> Afterlife:
    """Let a paused process go on, and see it end."""
    before, started = saves(bench, job, epoch), time.monotonic()
    old.signal(signal.SIGCONT)
    code = old.wait(AFTERLIFE_SECONDS)
    return Afterlife(code, time.monotonic() - started, len(saves(bench, job, epoch) - before))


def log_of(bench: Bench, job: Job) -> set[str]:
    return {key for key in keys(bench, job) if key.startswith("log/")}


def finished_as_twin(word: Termination, bench: Bench) -> None:
    assert word.log is not None
    assert word.log.last_commit is not None
    assert word.log.final
    assert {name: word.log.last_commit.digests[name] for name in STATE} == {name: bench.twin[name] for name in STATE}


def handed_over_at(bench: Bench, failpoint: str) -> Afterlife:
    """Epoch 1 pauses at a failpoint, epoch 2 finishes the job, epoch 1 goes on: nothing that counts has changed."""
    job = bench.job(checkpoint={"everySteps": 1, "keepLast": 2})
    old = job.start(1, failpoint=f"{failpoint}:stop")
    old.until(lambda: f"failpoint {failpoint} fired" in old.stderr(), failpoint)
    word = job.start(2).ended(0)
    finished_as_twin(word, bench)
    log, exported = log_of(bench, job), bench.objects("out/")
    after = awakened(bench, job, old, 1)
    assert log_of(bench, job) == log, old.words()
    assert bench.objects("out/") == exported
    assert after.saves <= 1, old.words()
    return after


@pytest.mark.parametrize("failpoint", ["T2", "T4", "T5", "T6", "T7"])
def test_a_trainer_paused_at_a_failpoint_is_fenced_when_it_comes_back(bench: Bench, failpoint: str) -> None:
    after = handed_over_at(bench, failpoint)
    assert after.code == 11


@pytest.mark.long
@pytest.mark.parametrize("failpoint", BEFORE_CLAIM + DURING + AFTER_FINAL)
def test_a_trainer_paused_at_any_failpoint_changes_nothing_when_it_comes_back(bench: Bench, failpoint: str) -> None:
    # Before its claim it learns that it is late; after FINAL its work is done, and it may say so.
    expected = 12 if failpoint in BEFORE_CLAIM else 0 if failpoint in AFTER_FINAL else 11
    assert handed_over_at(bench, failpoint).code == expected


def relay(bench: Bench, chosen: random.Random, limit: int) -> list[Afterlife]:
    """One job, handed over at random moments until it is finished or was handed over `limit` times."""
    job, seen, epoch = bench.job(checkpoint={"everySteps": 1, "keepLast": 2}), [], 1
    running = job.start(1)
    while len(seen) < limit:
        running.event("claimed")
        time.sleep(chosen.uniform(0.0, 1.5))  # anywhere in loading, restoring, training and saving
        running.signal(signal.SIGSTOP)
        if running.process.poll() is not None:
            break
        old, running = running, job.start(epoch + 1)
        running.event("claimed")
        seen.append(awakened(bench, job, old, epoch))
        assert seen[-1].saves <= 1, old.words()
        if seen[-1].code == 0:  # its FINAL was in the log before the pause
            assert running.ended(0).reason == "AlreadyFinal"
            finished_as_twin(old.termination(), bench)
            return seen
        assert seen[-1].code == 11, old.words()
        epoch += 1
    finished_as_twin(running.ended(0), bench)
    return seen


def summary(seen: list[Afterlife]) -> str:
    lives = sorted(after.seconds for after in seen if after.code == 11)
    late = sum(after.saves for after in seen)
    return (
        f"{len(seen)} hand-overs, {len(lives)} fenced; seconds alive after SIGCONT: median {statistics.median(lives):.2f}, "
        f"max {lives[-1]:.2f}; saves begun after SIGCONT: {late} in all, {max(after.saves for after in seen)} at most by one process"
    )


def test_a_job_handed_over_at_random_moments_ends_as_its_twin(bench: Bench) -> None:
    seen = relay(bench, random.Random(3), limit=4)
    assert seen


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_hundred_handovers_at_random_moments_accept_nothing_from_a_fenced_process(bench: Bench) -> None:
    chosen, seen = random.Random(11), list[Afterlife]()
    while len(seen) < 200:
        seen += relay(bench, chosen, limit=50)
    print(summary(seen))


@pytest.mark.parametrize("_round", [pytest.param(range(3), id="3"), pytest.param(range(20), id="20", marks=pytest.mark.long)])
def test_of_two_pods_of_one_epoch_started_at_once_exactly_one_trains(bench: Bench, _round: range) -> None:
    for _ in _round:
        job = bench.job()
        pair = [job.start(1, pod_uid="pod-a"), job.start(1, pod_uid="pod-b")]
        for trainer in pair:
            trainer.until(lambda trainer=trainer: trainer.process.poll() is not None or claimed(trainer), "a claim or the end")  # type: ignore[misc]
        (winner,) = [trainer for trainer in pair if claimed(trainer)]
        (loser,) = [trainer for trainer in pair if trainer is not winner]
        assert loser.wait(5.0) == 12
        word = loser.termination()
        assert (word.exit_code, word.reason, word.step) == (12, "EpochStale", 0)
        finished_as_twin(winner.ended(0), bench)


def claimed(trainer: Trainer) -> bool:
    return any(line.get("event") == "claimed" for line in trainer.events())
