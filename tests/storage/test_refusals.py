"""Stores that cannot be trusted, or refuse."""

from __future__ import annotations

import logging
import secrets
import threading
import time

import pytest

from localcloud.objectstore import Identity
from spottune_contract.exitcodes import ExitCode
from spottune_contract.layout import S3Location
from spottune_trainer.checkpoint import (
    StorageDenied,
)
from tests.storage.fault_proxy import FaultProxy
from tests.storage.job import Job, commit, write_credentials

pytestmark = pytest.mark.storage


def test_f29_a_store_that_ignores_the_condition_is_refused_before_anything_is_written(job: Job, proxy: FaultProxy) -> None:
    proxy.strip_conditions = True
    with pytest.raises(StorageDenied, match=proxy.endpoint) as error:
        job.log(1, endpoint=proxy.endpoint).probe()
    assert error.value.reason == "ConditionalWritesUnsupported"
    assert error.value.exit_code is ExitCode.STORAGE_DENIED
    assert job.keys("log/") == []


def test_an_honest_store_passes_the_probe(job: Job) -> None:
    job.log(1).probe()
    assert job.keys() == []


def test_f33_a_missing_bucket_is_known_at_once(job: Job) -> None:
    job.location = S3Location("no-such-bucket-here", "runs")
    began = time.monotonic()
    with pytest.raises(StorageDenied, match="no-such-bucket-here") as error:
        job.log(1).probe()
    assert error.value.reason == "BucketMissing"
    assert time.monotonic() - began < 5


def test_f20_wrong_credentials_end_within_ten_seconds_and_name_what_was_refused(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    write_credentials(job.credentials, job.store.access_key, "canary-secret-value")
    began = time.monotonic()
    with pytest.raises(StorageDenied, match="s3:PutObject") as error:
        job.log(1).probe()
    assert time.monotonic() - began < 10
    assert error.value.reason == "AccessDenied"
    assert job.location.bucket in str(error.value)
    assert "canary-secret-value" not in str(error.value) + "".join(
        r.getMessage() for r in caplog.records if not r.name.startswith("botocore")
    )


def test_rights_to_read_but_not_to_write_are_named(job: Job) -> None:
    reader = Identity(
        "reader", f"key{secrets.token_hex(4)}", secrets.token_hex(12), (f"Read:{job.location.bucket}", f"List:{job.location.bucket}")
    )
    job.store.admit(reader)
    write_credentials(job.credentials, reader.access_key, reader.secret_key)
    with pytest.raises(StorageDenied, match=r"s3:PutObject on s3://.*/probe/"):
        job.log(1).probe()


def test_credentials_that_are_not_there_are_named(job: Job) -> None:
    (job.credentials / "secretAccessKey").unlink()
    with pytest.raises(StorageDenied, match="secretAccessKey") as error:
        job.log(1).probe()
    assert error.value.reason == "CredentialsMissing"


def test_f20_rotated_credentials_are_taken_up_without_a_restart(job: Job) -> None:
    user = Identity("rotating", f"key{secrets.token_hex(4)}", secrets.token_hex(12), ("Read", "Write", "List"))
    job.store.admit(user)
    write_credentials(job.credentials, user.access_key, user.secret_key)
    log, _ = job.owner(1)
    commit(log, 10)
    rotated = Identity("rotating", user.access_key, secrets.token_hex(12), user.actions)
    job.store.admit(rotated)
    threading.Timer(1.0, lambda: write_credentials(job.credentials, rotated.access_key, rotated.secret_key)).start()
    commit(log, 20)
    assert log.view().last_commit is not None
