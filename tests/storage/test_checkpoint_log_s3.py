"""The checkpoint log against a real S3 server: every fault of storage that can be made with one."""

from __future__ import annotations

import itertools
import logging
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localcloud.objectstore import Identity, ObjectStore
from localcloud.toxiproxy import Proxy
from spottune_contract.exitcodes import ExitCode
from spottune_contract.layout import S3Location, slot_key
from spottune_trainer.checkpoint import (
    CheckpointLog,
    EpochStale,
    Fenced,
    NoReadableCheckpoint,
    Restored,
    Saver,
    Snapshot,
    StorageDenied,
    StorageUnavailable,
    open_store,
)
from spottune_trainer.checkpoint.store import Denied
from tests.storage.fault_proxy import FaultProxy, Passing, fault_proxy

pytestmark = pytest.mark.storage

CLAIM = {"pod_uid": "uid", "node": "node", "spec_hash": "", "image_digest": "", "compute_class": "cpu", "versions": {}}


def state(step: int) -> dict[str, bytes]:
    chance = random.Random(step)
    return {
        "adapter.safetensors": chance.randbytes(40_000),
        "optimizer.safetensors": chance.randbytes(80_000),
        "rng.json": b'{"step":%d}' % step,
        "cursor.json": b'{"cursor":%d}' % step,
        "trainer.json": b'{"trainer":%d}' % step,
    }


class Job:
    """One job's prefix in a fresh bucket, and processes of its attempts."""

    def __init__(self, store: ObjectStore, bucket: str, credentials: Path) -> None:
        self.store = store
        self.location = S3Location(bucket, f"runs/{secrets.token_hex(4)}")
        self.credentials = credentials
        self.client = store.client()

    def log(self, epoch: int, *, endpoint: str | None = None, min_slot: int = 0, keep_last: int = 3) -> CheckpointLog:
        store = open_store(
            self.location, endpoint=endpoint or self.store.endpoint, region="us-east-1", credentials_dir=str(self.credentials)
        )
        return CheckpointLog(store, epoch=epoch, min_slot=min_slot, keep_last=keep_last)

    def owner(self, epoch: int, *, endpoint: str | None = None, keep_last: int = 3) -> tuple[CheckpointLog, Restored | None]:
        log = self.log(epoch, endpoint=endpoint, keep_last=keep_last)
        log.claim(**CLAIM)  # type: ignore[arg-type]
        return log, log.resume(lambda commit, files: None)

    def keys(self, prefix: str = "") -> list[str]:
        root = self.location.key("")
        page = self.client.list_objects_v2(Bucket=self.location.bucket, Prefix=root + prefix)
        return [item["Key"].removeprefix(root) for item in page.get("Contents", ())]

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.location.bucket, Key=self.location.key(key))["Body"].read()

    def write(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.location.bucket, Key=self.location.key(key), Body=body)


def commit(log: CheckpointLog, *steps: int) -> None:
    for step in steps:
        log.commit(state(step), step=step, samples_seen=step, reason="interval")


def write_credentials(folder: Path, access_key: str, secret_key: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "accessKeyId").write_text(access_key + "\n")
    (folder / "secretAccessKey").write_text(secret_key + "\n")
    return folder


@pytest.fixture
def job(object_store: ObjectStore, bucket: str, tmp_path: Path) -> Job:
    return Job(object_store, bucket, write_credentials(tmp_path / "credentials", object_store.access_key, object_store.secret_key))


@pytest.fixture
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    with fault_proxy(object_store) as proxy:
        yield proxy


# --- the whole way ----------------------------------------------------------------------------------------------------------


def test_a_state_survives_its_attempt_bit_for_bit(job: Job) -> None:
    log, restored = job.owner(1)
    assert restored is None
    log.probe()
    commit(log, 10, 20)
    _, restored = job.owner(2)
    assert restored is not None
    assert dict(restored.files) == state(20)


def test_of_several_processes_of_one_epoch_exactly_one_claims(job: Job) -> None:
    outcomes: list[object] = []

    def attempt() -> None:
        try:
            outcomes.append(job.log(1).claim(**CLAIM))  # type: ignore[arg-type]
        except EpochStale as error:
            outcomes.append(error)

    threads = [threading.Thread(target=attempt) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(isinstance(outcome, EpochStale) for outcome in outcomes) == 2
    assert job.keys("log/") == [slot_key(0)]


def test_f11_what_a_paused_writer_does_when_it_comes_back_is_never_read(job: Job) -> None:
    old, _ = job.owner(1)
    commit(old, 10)
    new, restored = job.owner(2)
    assert restored is not None
    commit(new, 20)
    with pytest.raises(Fenced) as error:
        commit(old, 30)
    assert error.value.exit_code is ExitCode.FENCED
    _, restored = job.owner(3)
    assert restored is not None
    assert (restored.commit.step, restored.commit.epoch) == (20, 2)


def test_retention_leaves_what_may_be_needed_and_everything_that_is_not_ours(job: Job) -> None:
    old, _ = job.owner(1)
    commit(old, 10)
    orphan = job.keys("data/")[0].rpartition("/s")[0] + "/s0000011-aaaaaaaa/adapter.safetensors"
    job.write(orphan, b"left behind")
    job.write("data/notes.txt", b"a user's file")
    new, _ = job.owner(2, keep_last=2)
    commit(new, 20, 30)
    assert new.retain() == 6
    kept = job.keys("data/")
    assert orphan not in kept
    assert "data/notes.txt" in kept
    assert sorted({key.split("/")[2][:8] for key in kept if key.count("/") == 3}) == ["s0000020", "s0000030"]


def test_a_long_log_is_read_quickly(job: Job) -> None:
    log, _ = job.owner(1)
    for step in range(1, 130):
        log.commit({"cursor.json": b"%d" % step}, step=step, samples_seen=step, reason="interval")
    began = time.monotonic()
    late = job.log(2)
    late.claim(**CLAIM)  # type: ignore[arg-type]
    assert late.view().head_slot == 131
    assert time.monotonic() - began < 10


# --- stores that cannot be trusted, or refuse -----------------------------------------------------------------------------------


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


# --- answers that get lost ----------------------------------------------------------------------------------------------------


def first(count: int, wanted: Callable[[Passing], bool]) -> Callable[[Passing], bool]:
    """True for the first `count` requests that are wanted."""
    left = itertools.count(count, -1)
    return lambda request: wanted(request) and next(left) > 0


def is_record_put(request: Passing) -> bool:
    return request.method == "PUT" and "/log/" in request.key


def is_data_put(request: Passing) -> bool:
    return request.method == "PUT" and "/data/" in request.key


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
    assert dict(restored.files) == state(10)
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


# --- damage -------------------------------------------------------------------------------------------------------------------


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
        assert dict(restored.files) == state(10)
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
    log.claim(**CLAIM)  # type: ignore[arg-type]
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
        job.log(2, min_slot=known).claim(**CLAIM)  # type: ignore[arg-type]
    assert job.keys("log/") == []


# --- what may never happen ----------------------------------------------------------------------------------------------------


def test_f30_no_other_call_can_leave_the_client(job: Job) -> None:
    store = open_store(job.location, endpoint=job.store.endpoint, region="us-east-1", credentials_dir=str(job.credentials))
    client = store._connection.client()
    for forbidden in (
        lambda: client.copy_object(Bucket="b", Key="k", CopySource="b/c"),
        lambda: client.create_multipart_upload(Bucket="b", Key="k"),
        lambda: client.delete_objects(Bucket="b", Delete={"Objects": [{"Key": "k"}]}),
        lambda: client.put_object(Bucket="b", Key="k", Body=b""),
    ):
        with pytest.raises(AssertionError):
            forbidden()


def test_nothing_but_data_and_probes_can_be_deleted(job: Job) -> None:
    store = open_store(job.location, endpoint=job.store.endpoint, region="us-east-1", credentials_dir=str(job.credentials))
    for key in (slot_key(0), "tail/e0001-aaaaaaaa.log", "../data/x"):
        with pytest.raises(AssertionError, match="must never be deleted"):
            store.delete(key)


def test_the_default_credentials_are_used_where_no_secret_is_given(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", job.store.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", job.store.secret_key)
    log = CheckpointLog(open_store(job.location, endpoint=job.store.endpoint, region="us-east-1"), epoch=1)
    log.probe()


def test_without_any_credentials_the_remedy_is_named(job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    result = open_store(job.location, endpoint=job.store.endpoint, region="us-east-1").get("log/x", 10)
    assert isinstance(result, Denied)
    assert result.reason == "CredentialsMissing"
