"""The real trainer, killed and resumed: whatever happens, the result is the uninterrupted one's to the bit."""

from __future__ import annotations

import signal

import pytest

from tests.fixtures.trainerprocess import Bench

pytestmark = [pytest.mark.process, pytest.mark.storage]


def test_a_run_with_a_notice_a_stop_and_two_kills_equals_its_uninterrupted_twin(bench: Bench) -> None:
    twin = bench.job().start(1)
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
    third = job.start(3).ended(0)
    whole = twin.ended(0)
    assert third.log is not None
    assert whole.log is not None
    assert third.log.last_commit is not None
    assert whole.log.last_commit is not None
    assert third.log.last_commit.digests == whole.log.last_commit.digests
    assert third.log.last_commit.reason == "final"
