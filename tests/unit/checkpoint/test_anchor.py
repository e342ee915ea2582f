"""A long log is read from its end: the same is known as if it had been read whole, and whatever is odd makes it be read whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spottune_contract.layout import slot_key
from spottune_contract.records import Claim, Commit, Resume, decode, encode
from spottune_trainer.checkpoint.errors import EpochStale, LogBlocked, NoReadableCheckpoint
from spottune_trainer.checkpoint.lineage import (
    Anchor,
    Damaged,
    Log,
    Writer,
    deletable,
    fold,
    kept,
    knows_kept,
    pins,
    resume_candidates,
    view,
)
from spottune_trainer.checkpoint.log import CheckpointLog
from spottune_trainer.checkpoint.reading import WINDOW
from spottune_trainer.checkpoint.store import GetResult, ListResult
from tests.unit.checkpoint.stores import QuietStore, claim, owner, state
from tests.unit.checkpoint.test_lineage import build, entries_strategy, keys, writer
from tests.unit.checkpoint.test_lineage import claim as claim_record
from tests.unit.checkpoint.test_lineage import commit as commit_record
from tests.unit.checkpoint.test_lineage import resume as resume_record

LENGTH = 500


def anchored(entries: list[Claim | Resume | Commit | Damaged], slot: int) -> Log:
    anchor = entries[slot]
    assert isinstance(anchor, Commit)
    log = Log(Anchor(anchor, claim_record(0, 1)))
    for entry in entries[slot + 1 :]:
        log.add(entry)
    return log


# --- the fold ---------------------------------------------------------------------------------------------------------------


@given(entries_strategy, st.data())
def test_from_any_commit_that_counts_the_fold_says_the_same_unless_it_doubts(
    parts: list[tuple[str, int, str, int]], data: st.DataObject
) -> None:
    entries = build(parts)
    whole = fold(entries)
    counting = [e.slot for e, counts in zip(entries, whole.effective, strict=True) if counts and isinstance(e, Commit) and e.slot]
    if not counting:
        return
    slot = data.draw(st.sampled_from(counting))
    log = anchored(entries, slot)
    assert len(log) == len(whole)
    if log.doubtful:
        return
    assert log.effective == whole.effective[slot:]
    assert (log.owner, log.head, log.newest_commit, log.max_epoch) == (whole.owner, whole.head, whole.newest_commit, whole.max_epoch)
    assert view(log) == view(whole)
    assert log.final == whole.final
    assert resume_candidates(log) == tuple(c for c in resume_candidates(whole) if c.slot >= slot)


FIRST = [claim_record(0, 2), resume_record(1, 2, None), commit_record(2, 2, 10), commit_record(3, 2, 20)]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param([Damaged(4, "?")], id="a damaged record"),
        pytest.param([claim_record(4, 1)], id="a claim of an epoch below"),
        pytest.param([commit_record(4, 1, 30)], id="a commit of somebody who owns nothing"),
        pytest.param([claim_record(4, 3), resume_record(5, 3, 2)], id="a parent before the anchor"),
        pytest.param([claim_record(4, 3), resume_record(5, 3, None)], id="a start over"),
        pytest.param([commit_record(4, 3, 30)], id="a commit whose claim is not there"),
    ],
)
def test_what_only_the_older_part_can_explain_makes_the_fold_doubtful(odd: list[Claim | Resume | Commit | Damaged]) -> None:
    assert anchored([*FIRST, *odd], 3).doubtful
    assert not fold([*FIRST, *odd]).doubtful


def test_pinned_commits_before_the_anchor_keep_their_data_and_are_named_on() -> None:
    me = Writer(2, writer(2))
    pinned = commit_record(2, 2, 10, pinned=True)
    newer = commit_record(4, 2, 30).model_copy(update={"pins": (2,)})
    whole = fold([*FIRST[:2], pinned, FIRST[3], newer, commit_record(5, 2, 40).model_copy(update={"pins": (2,)})])
    end = Log(Anchor(newer, claim_record(0, 2), (pinned,)))
    end.add(whole.commit(5))
    assert pins(fold([*FIRST[:2], pinned])) == (2,)
    assert pins(end) == pins(whole) == (2,)
    assert [c.slot for c in kept(end, 2)] == [c.slot for c in kept(whole, 2)] == [5, 4, 2]
    listed = keys(*(whole.commit(slot) for slot in (2, 3, 4, 5)))
    assert deletable(end, me, listed, 2) == [] or deletable(end, me, listed, 2) == deletable(whole, me, listed, 2)
    assert not set(deletable(end, me, listed, 2)) & set(keys(pinned))


def test_nothing_is_deleted_while_it_is_not_known_what_stays() -> None:
    me = Writer(2, writer(2))
    end = Log(Anchor(commit_record(3, 2, 20), claim_record(0, 2)))
    assert not knows_kept(end, 2)
    old = [key.replace("e0002", "e0001") for key in keys(commit_record(2, 2, 10))]
    assert deletable(end, me, old, 2) == []
    end.add(commit_record(4, 2, 30))
    assert knows_kept(end, 2)
    assert deletable(end, me, old, 2) == old


# --- the steps, against a store ----------------------------------------------------------------------------------------------


class CountingStore(QuietStore):
    """Counts requests that read."""

    def __init__(self) -> None:
        super().__init__()
        self.gets: list[str] = []
        self.lists: list[tuple[str, str]] = []

    def get(self, key: str, limit: int) -> GetResult:
        self.gets.append(key)
        return super().get(key, limit)

    def list(self, prefix: str, start_after: str) -> ListResult:
        self.lists.append((prefix, start_after))
        return super().list(prefix, start_after)

    def slots_read(self) -> set[str]:
        return {key for key in self.gets if key.startswith("log/")}


@pytest.fixture(scope="module")
def long_log() -> dict[str, bytes]:
    """Objects of a log of `LENGTH` records: one attempt of many commits."""
    store = QuietStore()
    log = owner(store)
    for step in range(1, LENGTH - 1):
        log.commit(state(step), step=step, samples_seen=step, reason="interval")
    log.retain()
    return store.objects


@pytest.fixture
def store(long_log: dict[str, bytes]) -> CountingStore:
    store = CountingStore()
    store.objects.update(long_log)
    return store


def record(store: QuietStore, slot: int) -> Claim | Resume | Commit:
    return decode(store.objects[slot_key(slot)], slot)


def overwrite(store: QuietStore, slot: int, **changes: object) -> None:
    store.objects[slot_key(slot)] = encode(record(store, slot).model_copy(update=changes))


def damage(store: QuietStore, slot: int) -> None:
    store.objects[slot_key(slot)] = store.objects[slot_key(slot)][:-3]


def restored(log: CheckpointLog) -> int:
    result = log.resume(lambda commit, files: None)
    assert result is not None
    return result.commit.step


@pytest.mark.parametrize("known", [0, 1, 64, LENGTH - 40, LENGTH - 1, LENGTH])
def test_a_claimer_reads_the_end_of_a_long_log_only_whatever_it_was_told(store: CountingStore, known: int) -> None:
    log = CheckpointLog(store, epoch=2, min_slot=known)
    claim(log)
    assert log.view().head_slot == LENGTH
    assert len(store.slots_read()) <= WINDOW + 40 + 3
    assert restored(log) == LENGTH - 2
    if known > 1:
        assert store.lists[0] == ("log/", slot_key(known - 1))


def test_a_finished_log_is_known_as_such_from_its_end(store: CountingStore) -> None:
    overwrite(store, LENGTH - 1, reason="final")
    assert claim(CheckpointLog(store, epoch=2, min_slot=LENGTH)).final == record(store, LENGTH - 1)


def test_an_epoch_that_was_used_is_refused_from_the_end_too(store: CountingStore) -> None:
    owner(store, 5)
    with pytest.raises(EpochStale, match="5"):
        claim(CheckpointLog(store, epoch=4, min_slot=LENGTH))


@pytest.mark.parametrize("slot", [LENGTH - 1, LENGTH - 5, LENGTH - WINDOW + 1])
def test_a_damaged_record_near_the_end_makes_it_read_everything(store: CountingStore, slot: int) -> None:
    damage(store, slot)
    log = CheckpointLog(store, epoch=2, min_slot=LENGTH)
    claim(log)
    assert len(store.slots_read()) > LENGTH
    assert restored(log) == (LENGTH - 3 if slot == LENGTH - 1 else LENGTH - 2)


def test_damage_before_the_oldest_commit_that_was_read_changes_nothing(store: CountingStore) -> None:
    damage(store, LENGTH - WINDOW)
    log = CheckpointLog(store, epoch=2, min_slot=LENGTH)
    claim(log)
    assert restored(log) == LENGTH - 2
    assert len(store.slots_read()) <= WINDOW + 4


def test_a_damaged_first_record_makes_it_read_everything(store: CountingStore) -> None:
    damage(store, 0)
    log = CheckpointLog(store, epoch=2, min_slot=LENGTH)
    claim(log)
    assert len(store.slots_read()) > LENGTH
    assert restored(log) == LENGTH - 2


def test_a_record_that_is_missing_near_the_end_is_an_incomplete_log(store: CountingStore) -> None:
    del store.objects[slot_key(LENGTH - 7)]
    with pytest.raises(NoReadableCheckpoint, match=f"has {LENGTH - 7} records, the operator knows of {LENGTH}"):
        claim(CheckpointLog(store, epoch=2, min_slot=LENGTH))


def test_a_log_that_is_shorter_than_known_is_incomplete(store: CountingStore) -> None:
    with pytest.raises(NoReadableCheckpoint, match=f"has {LENGTH} records, the operator knows of {LENGTH + 2}"):
        claim(CheckpointLog(store, epoch=2, min_slot=LENGTH + 2))


def test_commits_before_the_part_that_was_read_are_found_when_none_in_it_is_readable(store: CountingStore) -> None:
    old = LENGTH - WINDOW - 60
    commit = record(store, old)
    assert isinstance(commit, Commit)
    for file, body in zip(commit.files, state(commit.step).values(), strict=True):
        store.objects[file.key] = body
    for key in [key for key in store.objects if key.startswith("data/") and f"s{commit.step:07d}" not in key]:
        del store.objects[key]
    log = CheckpointLog(store, epoch=2, min_slot=LENGTH)
    claim(log)
    assert restored(log) == commit.step
    written = record(store, LENGTH + 1)
    assert isinstance(written, Resume)
    assert [r.slot for r in written.rejected] == list(range(LENGTH - 1, old, -1))


def test_a_missing_record_before_the_part_that_was_read_is_said_when_it_is_needed(store: CountingStore) -> None:
    for key in [key for key in store.objects if key.startswith("data/")]:
        del store.objects[key]
    del store.objects[slot_key(100)]
    log = CheckpointLog(store, epoch=2, min_slot=LENGTH)
    claim(log)
    with pytest.raises(NoReadableCheckpoint, match="slot 100 is missing"):
        restored(log)


def test_a_log_that_reads_differently_as_a_whole_blocks_instead_of_guessing(store: CountingStore) -> None:
    # Only a log that was tampered with: a CLAIM of a higher epoch far back, which every writer after it must have seen.
    for key in [key for key in store.objects if key.startswith("data/")]:
        del store.objects[key]
    store.objects[slot_key(100)] = encode(claim_record(100, 9))
    log = CheckpointLog(store, epoch=2, min_slot=LENGTH)
    claim(log)
    with pytest.raises(LogBlocked, match="records of the log changed"):
        restored(log)


def test_a_rollback_further_back_than_was_read_finds_its_commit(store: CountingStore) -> None:
    log = CheckpointLog(store, epoch=2, min_slot=LENGTH)
    claim(log)
    assert restored(log) == LENGTH - 2
    back = log.rollback(lambda commit, files: None, why="diverged")
    assert back.commit.step == LENGTH - 3


def test_retention_after_a_short_reading_keeps_what_a_whole_reading_keeps(store: CountingStore) -> None:
    old = 50
    pinned = record(store, old)
    assert isinstance(pinned, Commit)
    overwrite(store, old, pinned=True)
    for slot in range(LENGTH - WINDOW - 2, LENGTH):
        overwrite(store, slot, pins=(old,))
    kept_key = pinned.files[0].key
    store.objects[kept_key] = b"pinned"
    orphan = kept_key.replace(pinned.save, "0rphaned0rphaned")
    store.objects[orphan] = b"left behind"
    log = owner(store, 2, min_slot=LENGTH, keep_last=3)
    assert len(store.slots_read()) <= WINDOW + 4
    log.commit(state(LENGTH), step=LENGTH, samples_seen=LENGTH, reason="interval")
    log.retain()
    steps = {key.split("/")[2][:8] for key in store.objects if key.startswith("data/")}
    assert steps == {f"s{step:07d}" for step in (pinned.step, LENGTH - 3, LENGTH - 2, LENGTH)}
    assert kept_key in store.objects
    assert orphan not in store.objects


def test_retention_that_keeps_more_than_was_read_reads_the_rest_first(store: CountingStore) -> None:
    keep = WINDOW + 20
    log = owner(store, 2, min_slot=LENGTH, keep_last=keep)
    log.commit(state(LENGTH), step=LENGTH, samples_seen=LENGTH, reason="interval")
    log.retain()
    assert len(store.slots_read()) > LENGTH - 5


def test_pins_are_written_into_the_commits_that_follow() -> None:
    store = CountingStore()
    log = owner(store)
    for step, pin in ((1, False), (2, True), (3, False)):
        log.commit(state(step), step=step, samples_seen=step, reason="interval", pinned=pin)
    written = [record(store, slot) for slot in (2, 3, 4)]
    assert [c.pins for c in written if isinstance(c, Commit)] == [(), (), (3,)]
