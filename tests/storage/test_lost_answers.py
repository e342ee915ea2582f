"""Answers that get lost between the checkpoint log and a real S3 server."""

from __future__ import annotations

import itertools
import random
import threading
import time

import pytest

from localcloud.toxiproxy import Proxy
from spottune_contract.exitcodes import ExitCode
from spottune_trainer.checkpoint import (
    Saver,
    Snapshot,
    StorageUnavailable,
)
from tests.storage.fault_proxy import FaultProxy, Passing
from tests.storage.job import Job, commit, contents, first, is_data_put, is_record_put, state

pytestmark = pytest.mark.storage


def test_f17_a_lost_answer_to_a_record_makes_neither_a_conflict_nor_a_second_commit(job: Job, proxy: FaultProxy) -> None:
    proxy.lose = first(40, is_record_put)
    log, _ = job.owner(1, endpoint=proxy.endpoint)
    commit(log, *range(1, 21))
    assert len(job.keys("log/")) == 22
    _, restored = job.owner(2)
    assert restored is not None
    assert restored.commit.step == 20


def test_f16_an_upload_that_is_cut_off_leaves_nothing_visible(job: Job, proxy: FaultProxy) -> None:
    log, _ = job.owner(1, endpoint=proxy.endpoint)
    commit(log, 10)
    for part in range(5):
        # The upload dies at each of its parts in turn.
        passed = itertools.count()
        proxy.refuse = lambda request, part=part, passed=passed: 503 if is_data_put(request) and next(passed) >= part else None  # type: ignore[misc]
        with pytest.raises(StorageUnavailable):
            log.commit(state(20), step=20, samples_seen=20, reason="notice", deadline=time.monotonic() + 0.5)
    proxy.refuse = lambda request: None
    _, restored = job.owner(2)
    assert restored is not None
    assert restored.commit.step == 10


def test_an_uploaded_part_whose_answer_is_lost_is_not_taken_for_another_s(job: Job, proxy: FaultProxy) -> None:
    proxy.lose = first(3, is_data_put)
    log, _ = job.owner(1, endpoint=proxy.endpoint)
    commit(log, 10)
    assert len(job.keys("data/")) == 5


def test_f18_a_storm_of_503_is_outlived(job: Job, proxy: FaultProxy) -> None:
    chance, lock = random.Random(7), threading.Lock()

    def half(request: Passing) -> int | None:
        with lock:
            return 503 if chance.random() < 0.5 else None

    log, _ = job.owner(1, endpoint=proxy.endpoint)
    proxy.refuse = half
    commit(log, 10, 20)
    proxy.refuse = lambda request: None
    _, restored = job.owner(2)
    assert restored is not None
    assert restored.commit.step == 20


def test_an_answer_cut_short_is_asked_for_again(job: Job, proxy: FaultProxy) -> None:
    log, _ = job.owner(1)
    commit(log, 10)
    proxy.cut = first(6, lambda request: request.method == "GET" and ("/data/" in request.key or "/log/" in request.key))
    _, restored = job.owner(2, endpoint=proxy.endpoint)
    assert restored is not None
    assert contents(restored.files) == state(10)
    assert restored.rejected == ()


def test_a_store_that_is_away_ends_in_a_transient_error(job: Job, storage_proxy: Proxy) -> None:
    log, _ = job.owner(1, endpoint=storage_proxy.url)
    storage_proxy.cut()
    with pytest.raises(StorageUnavailable) as error:
        log.commit(state(10), step=10, samples_seen=10, reason="interval", deadline=time.monotonic() + 1.0)
    assert error.value.exit_code is ExitCode.TRANSIENT
    storage_proxy.heal()
    commit(log, 20)


def test_f4_an_upload_that_does_not_fit_the_deadline_is_abandoned_in_time(job: Job, storage_proxy: Proxy) -> None:
    log, _ = job.owner(1, endpoint=storage_proxy.url)
    commit(log, 10)
    storage_proxy.add("bandwidth", stream="upstream", rate=20)
    began = time.monotonic()
    saver = Saver(log)
    saver.submit(Snapshot(state(20), 20, 20, "notice"), urgent=True, deadline=began + 1.0)
    with pytest.raises(StorageUnavailable):
        saver.flush(began + 1.0)
    assert time.monotonic() - began < 3
    saver.close()
    storage_proxy.heal()
    _, restored = job.owner(2)
    assert restored is not None
    assert restored.commit.step == 10
