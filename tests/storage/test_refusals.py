"""Stores that cannot be trusted, or refuse."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable

import pytest

from localcloud.objectstore import Identity
from spottune_contract.exitcodes import ExitCode
from spottune_contract.layout import S3Location
from spottune_trainer.checkpoint import Fenced, StorageDenied, StorageUnavailable
from spottune_trainer.checkpoint import log as log_module
from tests.storage.fault_proxy import FaultProxy, Passing
from tests.storage.job import Job, commit, is_data_put, is_record_put, state, write_credentials

pytestmark = pytest.mark.storage


IGNORING: dict[str, Callable[[int], bool]] = {
    "always": lambda number: True,
    "for the later of two at once": lambda number: number % 3 == 1,
    "for the third": lambda number: number % 3 == 2,
    "every second time": lambda number: number % 2 == 0,
}


@pytest.mark.parametrize("when", IGNORING)
def test_f29_a_store_that_ignores_the_condition_is_refused_before_anything_is_written(job: Job, proxy: FaultProxy, when: str) -> None:
    puts = itertools.count()
    proxy.ignore = lambda request: request.method == "PUT" and IGNORING[when](next(puts))
    with pytest.raises(StorageDenied, match=proxy.endpoint) as error:
        job.log(1, endpoint=proxy.endpoint).probe()
    assert error.value.reason == "ConditionalWritesUnsupported"
    assert error.value.exit_code is ExitCode.STORAGE_DENIED
    assert job.keys("log/") == job.keys("data/") == []


def test_f29_a_store_that_answers_success_and_stores_nothing_is_refused(job: Job, proxy: FaultProxy) -> None:
    proxy.pretend = lambda request: request.method == "PUT"
    with pytest.raises(StorageDenied) as error:
        job.log(1, endpoint=proxy.endpoint).probe()
    assert error.value.reason == "ConditionalWritesUnsupported"
    assert job.keys() == []


def test_f29_a_store_that_says_not_implemented_is_refused_at_once(job: Job, proxy: FaultProxy) -> None:
    proxy.refuse = lambda request: 501 if request.method == "PUT" else None
    began = time.monotonic()
    with pytest.raises(StorageDenied, match=proxy.endpoint) as error:
        job.log(1, endpoint=proxy.endpoint).probe()
    assert error.value.reason == "ConditionalWritesUnsupported"
    assert time.monotonic() - began < 5
    assert job.keys() == []


def test_f29_a_record_that_is_acknowledged_and_not_stored_is_no_commit(job: Job, proxy: FaultProxy) -> None:
    # A probe proves nothing about later requests: every answer is read back.
    log, _ = job.owner(1, endpoint=proxy.endpoint)
    commit(log, 10)
    proxy.pretend = is_record_put
    with pytest.raises(StorageUnavailable):
        log.commit(state(20), step=20, samples_seen=20, reason="notice", deadline=time.monotonic() + 1.5)
    # The last PUT may still be under way, and an honest store would take it: it goes on pretending; the next attempt asks the real one.
    assert job.restored(2) == (10, state(10))


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


def test_f21_a_store_that_finds_the_clock_wrong_says_so_and_nothing_is_written(job: Job, proxy: FaultProxy) -> None:
    proxy.refuse = lambda request: (403, "RequestTimeTooSkewed")
    began = time.monotonic()
    with pytest.raises(StorageDenied, match="time service") as error:
        job.log(1, endpoint=proxy.endpoint).probe()
    assert error.value.reason == "ClockSkewed"
    assert time.monotonic() - began < 10
    assert job.keys() == []


def test_f21_no_decision_looks_at_a_clock(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = iter(["2031-01-01T00:00:00.000+00:00", "1999-01-01T00:00:00.000+00:00"] * 20)
    monkeypatch.setattr(log_module, "_wall_clock", lambda: next(stamps))
    old, _ = job.owner(1)
    commit(old, 10, 20)
    new, restored = job.owner(2)
    assert restored is not None
    assert restored.commit.step == 20
    commit(new, 30)
    with pytest.raises(Fenced):
        commit(old, 40)
    assert job.restored(3) == (30, state(30))


@pytest.mark.parametrize("refusal", [(400, "ExpiredToken"), (403, "ExpiredToken"), (403, "InvalidAccessKeyId")])
def test_f20_credentials_that_expire_in_mid_upload_are_renewed_and_the_save_succeeds(
    job: Job, proxy: FaultProxy, refusal: tuple[int, str]
) -> None:
    log, _ = job.owner(1, endpoint=proxy.endpoint)
    commit(log, 10)
    arrived = itertools.count()
    expired = threading.Event()

    def after_two_parts(request: Passing) -> tuple[int, str] | None:
        if is_data_put(request) and next(arrived) == 2 and not expired.is_set():
            expired.set()
            # The kubelet brings the new secret a moment later.
            threading.Timer(0.5, renewed).start()
        return refusal if expired.is_set() and not fresh.is_set() else None

    fresh = threading.Event()

    def renewed() -> None:
        write_credentials(job.credentials, job.store.access_key, job.store.secret_key)
        fresh.set()

    proxy.refuse = after_two_parts
    commit(log, 20)
    assert expired.is_set()
    assert job.restored(2) == (20, state(20))
