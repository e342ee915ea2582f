"""Buckets and logs that are odd, each with a defined answer: docs/checkpoint-protocol.md, "Odd situations"."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path

import pytest

from localcloud.objectstore import ObjectStore
from spottune_contract.exitcodes import ExitCode
from spottune_contract.layout import slot_key
from spottune_contract.records import canonical
from spottune_trainer.checkpoint import CheckpointError, LogNotUnderstood, LogOfAnotherJob
from tests.storage.job import CLAIM, Job, commit, contents, state, write_credentials

pytestmark = pytest.mark.storage


def refused(job: Job, kind: type[CheckpointError], reason: str, **claim: str) -> CheckpointError:
    """What a claim of epoch 9 raises, having written nothing."""
    before = {key: job.read(key) for key in job.keys("")}
    with pytest.raises(kind) as error:
        job.log(9).claim(**CLAIM | claim)
    assert (error.value.exit_code, error.value.reason) == (ExitCode.BAD_CONFIG, reason)
    assert str(job.location) in str(error.value)
    assert {key: job.read(key) for key in job.keys("")} == before
    return error.value


def test_a_prefix_that_belongs_to_another_job_is_left_alone(job: Job) -> None:
    log, _ = job.owner(1)
    commit(log, 10)
    assert "prefix of its own" in str(refused(job, LogOfAnotherJob, "LogOfAnotherJob", spec_hash="f" * 64))
    assert job.restored(2) == (10, state(10))


@pytest.mark.parametrize("change", [{"protocol": 2}, {"kind": "LEASE"}, {"surprise": 1}])
def test_records_of_a_newer_format_are_not_guessed_at(job: Job, change: dict[str, object]) -> None:
    log, _ = job.owner(1)
    commit(log, 10)
    record = json.loads(job.read(slot_key(2))) | change
    del record["sha256"]
    record["slot"] = 3
    job.write(slot_key(3), canonical(record | {"sha256": hashlib.sha256(canonical(record)).hexdigest()}))
    assert "newer release" in str(refused(job, LogNotUnderstood, "LogNotUnderstood"))


def test_with_one_kept_commit_nothing_is_even_opened(job: Job) -> None:
    with pytest.raises(ValueError, match="one damaged object would end the job"):
        job.log(1, keep_last=1)


@pytest.mark.parametrize("lock", [False, True], ids=["versioning", "object lock"])
def test_in_a_bucket_that_keeps_versions_retention_and_resume_work_and_damage_can_be_undone(
    object_store: ObjectStore, tmp_path: Path, lock: bool
) -> None:
    bucket = f"kept-{secrets.token_hex(6)}"
    client = object_store.client()
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=lock)
    if lock:
        rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
        client.put_object_lock_configuration(
            Bucket=bucket,
            ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},  # type: ignore[typeddict-item]
        )
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    job = Job(object_store, bucket, write_credentials(tmp_path / "keys", object_store.access_key, object_store.secret_key))
    job.log(1).probe()
    log, _ = job.owner(1, keep_last=2)
    commit(log, 10, 20)
    newest = log.commit(state(30), step=30, samples_seen=30, reason="interval")
    assert log.retain() == len(state(10))
    assert not [key for key in job.keys("data/") if "/s0000010-" in key]
    root = job.location.key("data/")
    versions = client.list_object_versions(Bucket=bucket, Prefix=root)
    assert len(versions["DeleteMarkers"]) == len(state(10))
    assert len(versions["Versions"]) == 3 * len(state(10))

    damaged = next(key for key in job.keys("data/") if "/s0000030-" in key)
    whole = client.head_object(Bucket=bucket, Key=job.location.key(damaged))["VersionId"]
    job.write(damaged, b"damage")
    assert job.restored(2) == (20, state(20))
    old = client.get_object(Bucket=bucket, Key=job.location.key(damaged), VersionId=whole)["Body"].read()
    job.write(damaged, old)
    assert contents(job.log(3).load(newest)) == state(30)
