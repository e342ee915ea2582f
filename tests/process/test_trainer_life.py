"""The real trainer, stopped, killed, paused and resumed: whatever happens, the result is the uninterrupted one's to the bit."""

from __future__ import annotations

import random
import signal

import pytest

from spottune_contract.progress import Termination
from tests.fixtures.trainerprocess import Bench

pytestmark = [pytest.mark.process, pytest.mark.storage]


def finished_as_twin(word: Termination, bench: Bench) -> None:
    assert word.log is not None
    assert word.log.last_commit is not None
    assert word.log.final
    assert word.log.last_commit.digests == bench.twin


def test_the_command_itself_trains_exports_and_leaves_its_log(bench: Bench) -> None:
    job = bench.job()
    word = job.start(1, command=True).ended(0)
    finished_as_twin(word, bench)
    assert (word.reason, word.step, word.total_steps) == ("Completed", 12, 12)
    assert word.output == job.spec["output"]["destination"]
    tails = [key for key in bench.objects("jobs/") if "/tail/e0001-" in key]
    assert len(tails) == 1
    assert b'"event": "ended"' in bench.objects("jobs/")[tails[0]]


def test_a_stop_a_kill_and_a_notice_leave_the_result_of_the_uninterrupted_twin(bench: Bench) -> None:
    job = bench.job(checkpoint={"everySteps": 4})
    first = job.start(1)
    first.at_step(2)
    first.signal(signal.SIGTERM)
    word = first.ended(10)
    assert word.log is not None
    assert word.log.last_commit is not None
    assert word.step == word.log.last_commit.step >= 2
    second = job.start(2)
    second.at_step(word.step + 3)
    second.signal(signal.SIGKILL)
    assert second.wait() == -9
    third = job.start(3)
    assert third.event("restored")["step"] >= 4
    assert third.post({"source": "rebalance"}) == (202, {"accepted": True, "duplicate": False})
    finished_as_twin(third.ended(0), bench)
