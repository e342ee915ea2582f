"""The checkpoint log against a real S3 server: the whole way, and what may never happen."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from spottune_contract.exitcodes import ExitCode
from spottune_contract.layout import slot_key
from spottune_trainer.checkpoint import (
    CheckpointLog,
    EpochStale,
    Fenced,
    open_store,
)
from spottune_trainer.checkpoint.store import Denied
from tests.storage.job import CLAIM, Job, commit, contents, state

pytestmark = pytest.mark.storage


def test_a_state_survives_its_attempt_bit_for_bit(job: Job) -> None:
    log, restored = job.owner(1)
    assert restored is None
    log.probe()
    commit(log, 10, 20)
    _, restored = job.owner(2)
    assert restored is not None
    assert contents(restored.files) == state(20)


def test_of_several_processes_of_one_epoch_exactly_one_claims(job: Job) -> None:
    outcomes: list[object] = []

    def attempt() -> None:
        try:
            outcomes.append(job.log(1).claim(**CLAIM))
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
    late.claim(**CLAIM)
    assert late.view().head_slot == 131
    assert time.monotonic() - began < 10


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
