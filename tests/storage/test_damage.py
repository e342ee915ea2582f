"""Damaged objects of a log in a real S3 server."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from spottune_contract.exitcodes import ExitCode
from spottune_contract.layout import slot_key
from spottune_trainer.checkpoint import (
    NoReadableCheckpoint,
)
from tests.storage.job import CLAIM, Job, commit, contents, state

pytestmark = pytest.mark.storage


def flip(body: bytes, other: bytes) -> bytes:
    place = random.Random(len(body)).randrange(len(body))
    return body[:place] + bytes([body[place] ^ 4]) + body[place + 1 :]


def cut(body: bytes, other: bytes) -> bytes:
    return body[:-1]


def empty(body: bytes, other: bytes) -> bytes:
    return b""


def swap(body: bytes, other: bytes) -> bytes:
    return other


@pytest.mark.parametrize("damage", [flip, cut, empty, swap])
def test_f22_f23_f24_any_damaged_object_of_the_newest_commit_is_seen_and_the_one_before_is_used(
    job: Job, damage: Callable[[bytes, bytes], bytes]
) -> None:
    epoch = 1
    log, _ = job.owner(epoch)
    commit(log, 10)
    for name in state(0):
        commit(log, 10 + epoch * 10)
        newest = [key for key in job.keys("data/") if f"/s{10 + epoch * 10:07d}-" in key]
        older = [key for key in job.keys("data/") if "/s0000010-" in key]
        key = next(key for key in newest if key.endswith(name))
        job.write(key, damage(job.read(key), job.read(next(k for k in older if k.endswith(name)))))
        epoch += 1
        log, restored = job.owner(epoch)
        assert restored is not None
        assert restored.commit.step == 10
        assert contents(restored.files) == state(10)
        assert any(key in rejected.why for rejected in restored.rejected)


def test_f27_data_that_somebody_deleted_are_like_damaged_data(job: Job) -> None:
    log, _ = job.owner(1)
    commit(log, 10, 20)
    gone = next(key for key in job.keys("data/") if "/s0000020-" in key)
    job.client.delete_object(Bucket=job.location.bucket, Key=job.location.key(gone))
    _, restored = job.owner(2)
    assert restored is not None
    assert restored.commit.step == 10
    assert "is missing" in restored.rejected[0].why


@pytest.mark.parametrize("damage", [flip, cut, empty, swap])
@pytest.mark.parametrize("slot", [0, 1, 2, 3])
def test_f26_a_damaged_record_never_leads_to_a_wrong_state(job: Job, slot: int, damage: Callable[[bytes, bytes], bytes]) -> None:
    log, _ = job.owner(1)
    commit(log, 10, 20)
    job.write(slot_key(slot), damage(job.read(slot_key(slot)), job.read(slot_key((slot + 1) % 4))))
    _, restored = job.owner(2)
    assert restored is not None
    # Only the damaged COMMIT itself is lost; a damaged CLAIM or RESUME loses nothing.
    assert restored.commit.step == (10 if slot == 3 else 20)
    assert [rejected.slot for rejected in restored.rejected] == ([3] if slot == 3 else [])


def test_f25_if_nothing_is_readable_the_run_ends_instead_of_starting_over(job: Job) -> None:
    log, _ = job.owner(1)
    commit(log, 10, 20)
    for key in job.keys("data/"):
        if key.endswith("adapter.safetensors"):
            job.write(key, b"nothing")
    log = job.log(2)
    log.claim(**CLAIM)
    with pytest.raises(NoReadableCheckpoint, match="slot 2") as error:
        log.resume(lambda commit, files: None)
    assert error.value.exit_code is ExitCode.NO_READABLE_CHECKPOINT


def test_a_log_that_lost_its_end_is_not_taken_for_a_new_run(job: Job) -> None:
    log, _ = job.owner(1)
    commit(log, 10)
    known = log.view().head_slot + 1
    for key in job.keys("log/"):
        job.client.delete_object(Bucket=job.location.bucket, Key=job.location.key(key))
    with pytest.raises(NoReadableCheckpoint):
        job.log(2, min_slot=known).claim(**CLAIM)
    assert job.keys("log/") == []
