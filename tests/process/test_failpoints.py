"""The real trainer, ended at every failpoint of resumed attempts. One chain of attempts: each is ended at the next failpoint."""

from __future__ import annotations

import signal

import pytest

from tests.fixtures.trainerprocess import Bench, Job, Trainer

pytestmark = [pytest.mark.process, pytest.mark.storage]

BEFORE_TRAINING = ["T1", "T2", "T9", "T10"]
SAVING = ["T3", "T4", "T5", "T6", "T7", "T8"]
AFTER_FINAL = ["T12", "T11"]
"""FINAL is durable from T12 on: T11 is then met on the way that only exports."""


def fired(trainer: Trainer, failpoint: str) -> None:
    assert f"failpoint {failpoint} fired" in trainer.stderr(), trainer.words()


def resumable(bench: Bench, **changes: object) -> Job:
    """A job with a commit at step 2 or later, so that every further attempt resumes."""
    job = bench.job(checkpoint={"everySteps": 1, "keepLast": 2}, **changes)
    first = job.start(1)
    first.at_step(2)
    first.signal(signal.SIGTERM)
    first.ended(10)
    return job


def finishes_as_twin(job: Job, bench: Bench) -> None:
    word = job.start(len(job.started) + 1).ended(0)
    assert word.log is not None
    assert word.log.last_commit is not None
    assert word.log.final
    for name in ("adapter.safetensors", "optimizer.safetensors", "history.safetensors"):
        assert word.log.last_commit.digests[name] == bench.twin[name]


def test_kills_at_every_failpoint_of_resumed_attempts_one_after_the_other_change_nothing(bench: Bench) -> None:
    job = resumable(bench)
    for failpoint in BEFORE_TRAINING + SAVING + AFTER_FINAL:
        trainer = job.start(len(job.started) + 1, failpoint=f"{failpoint}:kill")
        assert trainer.wait() == -9, f"{failpoint}: {trainer.words()}"
        fired(trainer, failpoint)
    finishes_as_twin(job, bench)


def test_errors_at_every_failpoint_of_resumed_attempts_end_each_with_30_and_change_nothing(bench: Bench) -> None:
    job = resumable(bench)
    for failpoint in BEFORE_TRAINING + SAVING + AFTER_FINAL:
        trainer = job.start(len(job.started) + 1, failpoint=f"{failpoint}:raise")
        word = trainer.ended(30)
        assert (word.reason, word.message) == ("UnexpectedError", f"FailpointError: {failpoint}")
        fired(trainer, failpoint)
    finishes_as_twin(job, bench)


def test_a_stop_at_every_failpoint_before_the_end_is_one_commit_and_loses_no_finished_step(bench: Bench) -> None:
    job = resumable(bench, training={"maxSteps": 2000})
    for failpoint in BEFORE_TRAINING + SAVING:
        trainer = job.start(len(job.started) + 1, failpoint=f"{failpoint}:sleep=0.3")
        trainer.until(lambda trainer=trainer, name=failpoint: f"failpoint {name} fired" in trainer.stderr(), failpoint)  # type: ignore[misc]
        trainer.signal(signal.SIGTERM)
        if failpoint == "T1":  # before the claim nothing is known of the log, so nothing can be said to be committed
            assert trainer.ended(30).reason == "StoppedBeforeFirstCommit"
            continue
        word = trainer.ended(10)
        assert word.log is not None
        assert word.log.last_commit is not None
        steps = [line["step"] for line in trainer.events() if line.get("event") == "step"]
        assert word.step == word.log.last_commit.step >= max(steps, default=0), f"{failpoint}: {trainer.words()}"
        answers = [line for line in trainer.events() if line.get("event") == "committed" and line["reason"] != "interval"]
        assert len(answers) <= 1, f"{failpoint}: {answers}"
