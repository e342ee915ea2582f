"""The commit of another job that `resumeFrom` names: which one it is, what is said if there is none, and that nothing is written."""

from __future__ import annotations

import pytest

from spottune_contract.records import Commit
from spottune_trainer.checkpoint import CheckpointLog, NoReadableCheckpoint, OriginLog, OriginSwept, OriginUnusable, StorageDenied
from spottune_trainer.checkpoint.inspection import Records
from spottune_trainer.checkpoint.lineage import Entry
from spottune_trainer.checkpoint.origin import choose
from spottune_trainer.checkpoint.store import Denied, Listed
from tests.unit.checkpoint.stores import QuietStore, owner, state
from tests.unit.cli.logs import claim, damaged, keys_of, resume, story

PLACE = "s3://bucket/prefix/c/n/other"


def committed(store: QuietStore, *steps: int) -> tuple[CheckpointLog, list[Commit]]:
    log = owner(store)
    return log, [log.commit(state(step), step=step, samples_seen=8 * step, reason="interval") for step in steps]


def opened(store: QuietStore) -> OriginLog:
    return OriginLog(store, PLACE)


@pytest.mark.parametrize(("step", "slot"), [(None, 9), (60, 9), (30, 8), (10, 7)])
def test_the_newest_or_the_step_that_is_asked_for(step: int | None, slot: int) -> None:
    assert choose(Records(tuple(story())), keys_of(*story()), step).slot == slot


HEADLESS: list[Entry] = [claim(0, 1), resume(1, 1, None)]
UNUSABLE: dict[str, tuple[Records, list[Entry], int | None, str, str]] = {
    "nothing there": (Records(()), [], None, "ResumeFromMissing", "there is no checkpoint log"),
    "no commit": (Records(tuple(HEADLESS)), [], None, "ResumeFromNotKept", "nothing was committed there yet"),
    "never committed": (Records(tuple(story())), story(), 11, "ResumeFromNotKept", r"step 11 is not kept.*kept: 10, 30, 60"),
    "swept": (Records(tuple(story())), story()[8:], 10, "ResumeFromNotKept", r"step 10 is not kept.*kept: 30, 60"),
    "left aside": (Records(tuple(story())), story(), 20, "ResumeFromNotKept", "step 20 is not kept"),
    "written by a fenced attempt": (Records(tuple(story())), story(), 21, "ResumeFromNotKept", "step 21 is not kept"),
    "a gap": (Records(tuple(story()[:9]), (10,)), story()[:9], None, "ResumeFromUnusable", r"newest commit is not known.*kept: 10, 30"),
    "a damaged end": (Records((*story()[:9], damaged(9))), story(), None, "ResumeFromUnusable", "newest commit is not known"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_started_from_is_said_with_what_there_is(case: str) -> None:
    records, there, step, reason, words = UNUSABLE[case]
    with pytest.raises(OriginUnusable, match=words) as caught:
        choose(records, keys_of(*there), step)
    assert (caught.value.reason, caught.value.exit_code) == (reason, 20)


def test_a_kept_step_before_damaged_records_can_be_named() -> None:
    assert choose(Records((*story()[:9], damaged(9))), keys_of(*story()[:9]), 30).slot == 8


def test_its_files_are_read_and_nothing_is_written() -> None:
    store = QuietStore()
    _, (first, second) = committed(store, 10, 20)
    before = dict(store.objects)
    log = opened(store)
    assert (log.find(10), log.find(None)) == (first, second)
    assert log.load(second) == state(20)
    assert store.objects == before
    assert log.origin(second).model_dump() == {
        "location": PLACE, "slot": second.slot, "epoch": 1, "writer": second.writer, "save": second.save
    }  # fmt: skip


def test_a_commit_that_is_swept_while_it_is_read_is_for_the_next_attempt_to_choose_again() -> None:
    store = QuietStore()
    theirs, (first, _) = committed(store, 10, 20)
    log = opened(store)
    log.find(10)
    for step in (30, 40):
        theirs.commit(state(step), step=step, samples_seen=8 * step, reason="interval")
    assert theirs.retain() > 0
    with pytest.raises(OriginSwept, match=r"resumeFrom: .*step 10 .* is missing; that job has committed since") as caught:
        log.load(first)
    assert caught.value.exit_code == 30
    with pytest.raises(OriginUnusable, match="step 10 is not kept"):
        opened(store).find(10)


def test_damage_is_no_sweep() -> None:
    store = QuietStore()
    _, (_, second) = committed(store, 10, 20)
    log = opened(store)
    log.find(None)
    store.corrupt(second.files[0].key)
    with pytest.raises(
        NoReadableCheckpoint, match=r"resumeFrom: .*step 20 .* create a new job that names another step: kept: 10"
    ) as caught:
        log.load(second)
    assert caught.value.exit_code == 23


def test_a_refusal_of_the_store_ends_it() -> None:
    class Closed(QuietStore):
        def list(self, prefix: str, start_after: str) -> Listed | Denied:
            return Denied("AccessDenied", "s3:ListBucket was refused: grant it", permanent=True)

    with pytest.raises(StorageDenied, match="s3:ListBucket was refused: grant it") as caught:
        opened(Closed()).find(None)
    assert (caught.value.reason, caught.value.exit_code) == ("AccessDenied", 24)
