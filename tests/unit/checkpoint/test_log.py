"""The log as the trainer sees it, over a store in memory: one case each."""

from __future__ import annotations

import time

import pytest

from spottune_contract import failpoint
from spottune_contract.exitcodes import ExitCode
from spottune_contract.layout import slot_key
from spottune_contract.records import Resume, canonical, decode, encode
from spottune_trainer.checkpoint import (
    CheckpointError,
    CheckpointLog,
    EpochStale,
    Fenced,
    LogBlocked,
    LogNotUnderstood,
    LogOfAnotherJob,
    NoReadableCheckpoint,
    StorageDenied,
    StorageUnavailable,
    Unacceptable,
)
from spottune_trainer.checkpoint import log as log_module
from spottune_trainer.checkpoint.drive import Patience
from tests.unit.checkpoint.stores import QuietStore, claim, owner, refusing, silent, state


@pytest.fixture
def store() -> QuietStore:
    return QuietStore()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "AT_START", Patience(unavailable=60.0, denied=0.2))
    monkeypatch.setattr(log_module, "AT_COMMIT", Patience(unavailable=0.3, denied=60.0))


def last_record(store: QuietStore) -> object:
    slot = max(int(key[4:-5]) for key in store.objects if key.startswith("log/"))
    return decode(store.objects[slot_key(slot)], slot)


def accept(*_: object) -> None:
    pass


def commits(log: CheckpointLog, *steps: int, reason: str = "interval") -> None:
    for step in steps:
        log.commit(state(step), step=step, samples_seen=step, reason=reason)  # type: ignore[arg-type]


def test_a_first_attempt_starts_at_step_0_and_says_so_in_the_log(store: QuietStore) -> None:
    log = CheckpointLog(store, epoch=1)
    assert claim(log).final is None
    assert log.resume(accept) is None
    record = last_record(store)
    assert isinstance(record, Resume)
    assert record.parent is None


def test_the_next_attempt_gets_the_bytes_that_were_committed(store: QuietStore) -> None:
    commits(owner(store), 10, 20)
    log = CheckpointLog(store, epoch=2)
    claim(log)
    restored = log.resume(accept)
    assert restored is not None
    assert restored.commit.step == 20
    assert dict(restored.files) == state(20)
    assert restored.rejected == ()


def test_large_files_are_split_into_parts_and_come_back_whole(store: QuietStore, monkeypatch: pytest.MonkeyPatch) -> None:
    log = owner(store)
    monkeypatch.setattr(log._protocol, "_part_bytes", 3)
    commit = log.commit({"a.bin": b"0123456789", "empty.bin": b""}, step=1, samples_seen=1, reason="interval")
    assert [(f.name, f.part, f.size) for f in commit.files] == [
        ("a.bin", 0, 3),
        ("a.bin", 1, 3),
        ("a.bin", 2, 3),
        ("a.bin", 3, 1),
        ("empty.bin", 0, 0),
    ]
    assert dict(log.load(commit)) == {"a.bin": b"0123456789", "empty.bin": b""}


def test_a_finished_run_is_not_claimed_again(store: QuietStore) -> None:
    commits(owner(store), 10, reason="final")
    records = len(store.objects)
    log = CheckpointLog(store, epoch=2)
    final = claim(log).final
    assert final is not None
    assert final.reason == "final"
    assert dict(log.load(final)) == state(10)
    assert len(store.objects) == records
    assert log.view().final


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_epoch_that_the_log_knows_is_refused_with_the_highest(store: QuietStore, epoch: int) -> None:
    owner(store, 2)
    with pytest.raises(EpochStale) as error:
        claim(CheckpointLog(store, epoch=epoch))
    assert error.value.highest == 2
    assert error.value.exit_code is ExitCode.EPOCH_STALE


def test_a_fenced_writer_learns_it_before_it_uploads_anything(store: QuietStore) -> None:
    old = owner(store, 1)
    owner(store, 3)
    objects = set(store.objects)
    with pytest.raises(Fenced) as error:
        commits(old, 10)
    assert error.value.epoch == 3
    assert set(store.objects) == objects
    assert old.view().max_epoch == 3


def test_a_writer_that_is_fenced_during_its_upload_commits_nothing(store: QuietStore) -> None:
    old = owner(store, 1)
    taken = []

    def take_over(key: str) -> None:
        if key.startswith("data/") and not taken:
            taken.append(key)
            claim(CheckpointLog(store, epoch=2))

    store.on_put = take_over
    with pytest.raises(Fenced):
        commits(old, 10)


def test_the_newest_commit_that_is_whole_is_taken_and_the_rejected_one_is_named(store: QuietStore) -> None:
    log = owner(store)
    commits(log, 10, 20)
    key = next(k for k in sorted(store.objects) if "s0000020" in k)
    store.objects[key] = store.objects[key][:-1]
    log = CheckpointLog(store, epoch=2)
    claim(log)
    restored = log.resume(accept)
    assert restored is not None
    assert restored.commit.step == 10
    assert [r.slot for r in restored.rejected] == [3]
    assert key in restored.rejected[0].why
    # The older state was committed again at once.
    last = log.view().last_commit
    assert last is not None
    assert (last.reason, last.step, last.epoch) == ("recommit", 10, 2)


def test_a_state_that_does_not_fit_is_rejected_with_the_reason(store: QuietStore) -> None:
    commits(owner(store), 10, 20)
    log = CheckpointLog(store, epoch=2)
    claim(log)

    def only_the_first(commit: object, files: object) -> None:
        if getattr(commit, "step", 0) == 20:
            raise Unacceptable("lora_A has shape [8, 64], the model wants [16, 64]")

    restored = log.resume(only_the_first)
    assert restored is not None
    assert "lora_A" in restored.rejected[0].why


def test_an_error_of_the_caller_passes_through_unchanged(store: QuietStore) -> None:
    commits(owner(store), 10)
    log = CheckpointLog(store, epoch=2)
    claim(log)
    with pytest.raises(KeyError):
        log.resume(lambda commit, files: {}["x"])


def test_a_run_is_never_silently_started_over(store: QuietStore) -> None:
    commits(owner(store), 10)
    for key in [k for k in store.objects if k.startswith("data/")]:
        del store.objects[key]
    log = CheckpointLog(store, epoch=2)
    claim(log)
    with pytest.raises(NoReadableCheckpoint, match="missing") as error:
        log.resume(accept)
    assert error.value.exit_code is ExitCode.NO_READABLE_CHECKPOINT


def test_a_damaged_record_that_may_have_been_the_only_commit_is_no_reason_to_start_over(store: QuietStore) -> None:
    commits(owner(store), 10)
    store.objects[slot_key(2)] = b"{}"
    log = CheckpointLog(store, epoch=2)
    claim(log)
    with pytest.raises(NoReadableCheckpoint, match="damaged"):
        log.resume(accept)


def test_a_reader_that_lost_the_log_is_fenced_not_told_that_nothing_is_readable(store: QuietStore) -> None:
    commits(owner(store), 10)
    log = CheckpointLog(store, epoch=2)
    claim(log)
    claim(CheckpointLog(store, epoch=3))
    for key in [k for k in store.objects if k.startswith("data/")]:
        del store.objects[key]
    with pytest.raises(Fenced):
        log.resume(accept)


@pytest.mark.parametrize("missing", [1, 3])
def test_a_gap_in_the_log_is_refused_before_anything_is_written(store: QuietStore, missing: int) -> None:
    commits(owner(store), 10, 20, 30)
    del store.objects[slot_key(missing)]
    objects = dict(store.objects)
    with pytest.raises(NoReadableCheckpoint, match=f"slot {missing} is missing") as error:
        claim(CheckpointLog(store, epoch=2))
    assert error.value.reason == "LogIncomplete"
    assert store.objects == objects


def test_a_log_shorter_than_the_operator_knows_is_refused(store: QuietStore) -> None:
    owner(store)
    with pytest.raises(NoReadableCheckpoint, match="the operator knows of 3"):
        claim(CheckpointLog(store, epoch=2, min_slot=3))
    assert claim(CheckpointLog(store, epoch=2, min_slot=2)).final is None


def test_a_record_of_a_newer_release_is_refused_not_stepped_over(store: QuietStore) -> None:
    import hashlib
    import json

    owner(store)
    body = json.loads(store.objects[slot_key(0)])
    body["protocol"] = 2
    del body["sha256"]
    body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    store.objects[slot_key(0)] = canonical(body)
    with pytest.raises(LogNotUnderstood) as error:
        claim(CheckpointLog(store, epoch=2))
    assert error.value.exit_code is ExitCode.BAD_CONFIG


def test_an_owner_never_steps_over_a_record_that_it_cannot_read(store: QuietStore) -> None:
    log = owner(store)
    store.objects[slot_key(2)] = b"\x00" * 40
    with pytest.raises(LogBlocked) as error:
        commits(log, 10)
    assert error.value.exit_code is ExitCode.TRANSIENT
    assert slot_key(3) not in store.objects


def test_the_next_attempt_steps_over_it_and_goes_on(store: QuietStore) -> None:
    log = owner(store)
    commits(log, 10)
    store.objects[slot_key(3)] = b"\x00" * 40
    log = CheckpointLog(store, epoch=2)
    claim(log)
    restored = log.resume(accept)
    assert restored is not None
    assert restored.commit.step == 10
    assert [r.slot for r in restored.rejected] == [3]


def test_a_commit_whose_answer_is_lost_is_read_back_and_counts_once(store: QuietStore) -> None:
    log = owner(store)
    late: list[str] = []

    def lose_once(key: str) -> None:
        if key.startswith("log/") and not late:
            late.append(key)

    store.on_put = lose_once
    store.faults.lost_after = 1.0
    commits(log, 10)
    store.faults.lost_after = 0.0
    commits(log, 20)
    steps = [c.step for c in log._protocol.log.lineage()]
    assert steps == [20, 10]


@pytest.mark.usefixtures("impatient")
def test_an_earlier_commit_that_lands_late_counts_and_the_next_one_follows_it(store: QuietStore) -> None:
    log = owner(store)
    store.on_put = silent("log/")
    with pytest.raises(StorageUnavailable):
        commits(log, 10)
    # The PUT that got no answer arrives after all.
    from spottune_contract.records import Commit

    store.on_put = lambda key: None
    data = sorted(k for k in store.objects if "s0000010" in k)
    late = Commit(
        slot=2, epoch=1, writer=log.writer, save=data[0].split("/")[2].split("-")[1], step=10, samples_seen=10, reason="interval", files=()
    )
    store.objects[slot_key(2)] = encode(late)
    commits(log, 20)
    assert [(c.slot, c.step) for c in log._protocol.log.lineage()] == [(3, 20), (2, 10)]


def test_a_deadline_bounds_a_commit_and_nothing_of_it_is_visible(store: QuietStore) -> None:
    log = owner(store)
    store.on_put = silent("data/")
    began = time.monotonic()
    with pytest.raises(StorageUnavailable):
        log.commit(state(1), step=1, samples_seen=1, reason="notice", deadline=began + 0.4)
    assert time.monotonic() - began < 2.0
    assert log.view().last_commit is None


@pytest.mark.usefixtures("impatient")
def test_rights_that_stay_denied_end_with_the_action_named_and_credentials_are_read_again(store: QuietStore) -> None:
    store.on_put = refusing("log/")
    with pytest.raises(StorageDenied, match="s3:PutObject") as error:
        claim(CheckpointLog(store, epoch=1))
    assert error.value.exit_code is ExitCode.STORAGE_DENIED
    assert error.value.reason == "AccessDenied"
    assert store.renewed > 0


def test_rights_that_arrive_late_are_enough(store: QuietStore) -> None:
    seen: list[str] = []
    deny = refusing("log/")

    def deny_twice(key: str) -> object:
        seen.append(key)
        return deny(key) if len(seen) <= 2 else None

    store.on_put = deny_twice  # type: ignore[assignment]
    assert claim(CheckpointLog(store, epoch=1)).final is None


def test_a_store_that_ignores_the_condition_is_refused_and_named(store: QuietStore) -> None:
    store.faults.lies = 1.0
    with pytest.raises(StorageDenied, match="memory answered success") as error:
        CheckpointLog(store, epoch=1).probe()
    assert error.value.reason == "ConditionalWritesUnsupported"


def test_a_probe_leaves_nothing_behind(store: QuietStore) -> None:
    CheckpointLog(store, epoch=1).probe()
    assert store.objects == {}


def test_a_rollback_goes_to_the_commit_before_and_stays_there(store: QuietStore) -> None:
    log = owner(store)
    commits(log, 10, 20)
    assert log.rollback(accept, why="loss is not finite").commit.step == 10
    commits(log, 15)
    after = CheckpointLog(store, epoch=2)
    claim(after)
    restored = after.resume(accept)
    assert restored is not None
    assert restored.commit.step == 15
    assert [c.step for c in after._protocol.log.lineage()] == [15, 10, 10]


def test_a_rollback_without_an_older_commit_ends_the_job(store: QuietStore) -> None:
    log = owner(store)
    commits(log, 10)
    with pytest.raises(NoReadableCheckpoint, match="roll back"):
        log.rollback(accept, why="loss is not finite")


def test_retention_keeps_what_was_asked_for_and_never_touches_the_log(store: QuietStore) -> None:
    log = owner(store, keep_last=2)
    commits(log, 10, 20, 30)
    records = {k for k in store.objects if k.startswith("log/")}
    assert log.retain() == 2
    assert sorted({k.split("/")[2][:8] for k in store.objects if k.startswith("data/")}) == ["s0000020", "s0000030"]
    assert records <= set(store.objects)


def test_fewer_than_two_kept_commits_are_refused(store: QuietStore) -> None:
    with pytest.raises(ValueError, match="damaged object"):
        CheckpointLog(store, epoch=1, keep_last=1)


def test_every_error_has_a_reason_that_a_machine_can_read() -> None:
    for error in CheckpointError.__subclasses__():
        assert error.reason.isalpha()
        assert error.reason[0].isupper()
        assert error.exit_code in ExitCode


@pytest.mark.parametrize("name", ["T1", "T2", "T4", "T5", "T6", "T7", "T8", "T9", "T10"])
def test_every_failpoint_is_passed_on_the_way(store: QuietStore, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(failpoint._armed, name, ("raise", 1))
    monkeypatch.setattr(failpoint, "_hits", {})

    def two_attempts() -> None:
        CheckpointLog(store, epoch=1).probe()
        log = owner(store, 1, keep_last=2)
        commits(log, 10, 20, 30)
        log.retain()
        owner(store, 2)

    with pytest.raises(failpoint.FailpointError, match=name):
        two_attempts()


def test_a_commit_says_how_long_it_took_from_the_notice(store: QuietStore) -> None:
    log = owner(store)
    commit = log.commit(
        state(1), step=1, samples_seen=1, reason="notice", timings={"notice_to_snapshot": 2.0}, since=time.monotonic() - 3.0
    )
    assert commit.timings["notice_to_commit"] == pytest.approx(5.0, abs=1.0)
    assert commit.timings["upload"] < 2.0


def test_a_log_of_another_specification_is_refused_before_anything_is_written(store: QuietStore) -> None:
    commits(owner(store), 10)
    objects = dict(store.objects)
    log = CheckpointLog(store, epoch=2)
    with pytest.raises(LogOfAnotherJob, match="prefix of its own") as error:
        log.claim(pod_uid="u", node="n", spec_hash="f" * 64, image_digest="", compute_class="cpu", versions={})
    assert error.value.exit_code is ExitCode.BAD_CONFIG
    assert store.objects == objects


def test_a_resumed_commit_whose_record_is_damaged_later_is_no_reason_to_start_over(store: QuietStore) -> None:
    commits(owner(store), 10)
    owner(store, 2)
    store.objects[slot_key(2)] = b"{}"
    log = CheckpointLog(store, epoch=3)
    claim(log)
    with pytest.raises(NoReadableCheckpoint, match=r"slots \[2\]"):
        log.resume(accept)


def test_f31_what_killed_attempts_left_behind_is_swept_after_the_first_own_commit(store: QuietStore) -> None:
    commits(owner(store), 10)
    for epoch in range(2, 12):
        dying = owner(store, epoch)
        # Its COMMIT is never sent: the data are all there and nothing names them.
        uploading = dying._protocol.upload(state(10 + epoch), 10 + epoch)
        dying._driver.run(uploading, patience=Patience(unavailable=5.0, denied=0.0))
    last = owner(store, 12)
    commits(last, 50)
    assert last.retain() == 10 * len(state(0))
    assert sorted({key.split("/")[2][:8] for key in store.objects if key.startswith("data/")}) == ["s0000010", "s0000050"]


def test_f32_a_listing_that_is_stale_or_empty_is_only_a_hint(store: QuietStore) -> None:
    commits(owner(store), 10, 20)
    store.faults.stale_list = 1.0
    for epoch in range(2, 12):
        log = CheckpointLog(store, epoch=epoch)
        claim(log)
        restored = log.resume(accept)
        assert restored is not None
        assert restored.commit.step == 20
