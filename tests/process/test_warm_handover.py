"""Warm hand-over: the successor has loaded everything, waits at the claim, and takes over when its predecessor has gone or its time is up."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from spottune_contract.layout import left_key, ready_key
from tests.fixtures.trainerprocess import Bench
from tests.process.test_handover import awakened, finished_as_twin, keys

pytestmark = [pytest.mark.process, pytest.mark.storage]

FAR = 120.0
"""Seconds until a time that no test waits for."""


def test_the_successor_takes_over_as_soon_as_its_predecessor_has_committed_and_left(bench: Bench) -> None:
    job = bench.job(checkpoint={"interval": "1h"})
    # The job is short: who waits is there first.
    new = job.start(2, handover="Warm", predecessor=1, predecessor_until=time.time() + FAR)
    new.event("waiting for the predecessor")
    old = job.start(1, handover="Warm")
    old.at_step(1)
    assert new.progress().claimed_at == 0.0
    old.signal(signal.SIGTERM)
    step = old.ended(10).step
    assert left_key(1) in keys(bench, job)
    assert new.event("waited for the predecessor")["left"] is True
    word = new.ended(0)
    assert word.resumed_from_step == step, "no finished step is done again"
    finished_as_twin(word, bench)


def notice(seconds: float) -> dict[str, object]:
    return {"source": "imds", "deadline": time.time() + seconds}


def test_while_no_successor_is_ready_the_time_that_is_left_is_used(bench: Bench) -> None:
    job = bench.job(checkpoint={"interval": "1h"})
    old = job.start(1, handover="Warm")
    old.at_step(2)
    assert old.post(notice(300))[0] == 202
    old.signal(signal.SIGTERM)
    word = old.ended(0)
    finished_as_twin(word, bench)
    assert len([event for event in old.events() if event["event"] == "committed"]) > 5, "each step is committed as it is finished"
    assert job.start(2, handover="Warm", predecessor=1, predecessor_until=time.time() + FAR).ended(0).reason == "AlreadyFinal"


def test_a_successor_that_is_ready_relieves_at_once(bench: Bench) -> None:
    job = bench.job(checkpoint={"interval": "1h"})
    new = job.start(2, handover="Warm", predecessor=1, predecessor_until=time.time() + FAR)
    new.until(lambda: ready_key(2) in keys(bench, job), "it says that it is ready")
    old = job.start(1, handover="Warm")
    old.at_step(1)
    assert old.post(notice(300))[0] == 202
    old.signal(signal.SIGTERM)
    step = old.ended(10).step
    assert new.ended(0).resumed_from_step == step


@pytest.mark.parametrize("told", [{"handover": "Cold"}, {"handover": "Warm", "grace_seconds": 20}], ids=["cold", "too little time"])
def test_otherwise_a_stop_is_a_stop(bench: Bench, told: dict[str, Any]) -> None:
    old = bench.job(checkpoint={"interval": "1h"}).start(1, **told)
    old.at_step(2)
    assert old.post(notice(300))[0] == 202
    old.signal(signal.SIGTERM)
    assert old.ended(10).step < 12


def test_a_predecessor_that_never_says_so_is_waited_for_until_its_time_is_up_and_is_fenced_then(bench: Bench) -> None:
    job = bench.job(checkpoint={"everySteps": 1, "keepLast": 2})
    old = job.start(1, handover="Warm", failpoint="T6:stop")
    old.until(lambda: "failpoint T6 fired" in old.stderr(), "it stands still")
    until = time.time() + 3
    new = job.start(2, handover="Warm", predecessor=1, predecessor_until=until)
    assert new.event("waited for the predecessor")["left"] is False
    assert time.time() >= until
    finished_as_twin(new.ended(0), bench)
    assert awakened(bench, job, old, 1).code == 11


def test_a_successor_that_is_asked_to_end_while_it_waits_ends_at_once_and_claims_nothing(bench: Bench) -> None:
    job = bench.job()
    new = job.start(2, handover="Warm", predecessor=1, predecessor_until=time.time() + FAR)
    new.event("waiting for the predecessor")
    new.signal(signal.SIGTERM)
    assert new.ended(30).reason == "StoppedBeforeFirstCommit"
    assert not [key for key in keys(bench, job) if key.startswith("log/")]


def test_without_a_hand_over_no_mark_is_left(bench: Bench) -> None:
    job = bench.job()
    old = job.start(1)
    old.at_step(1)
    old.signal(signal.SIGTERM)
    old.ended(10)
    assert left_key(1) not in keys(bench, job)
