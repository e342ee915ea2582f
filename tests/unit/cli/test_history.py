"""Every record gets exactly one standing, and every commit one word for what is left of its data."""

from __future__ import annotations

import pytest

from spottune_cli.history import Data, Standing, kept_steps, understand
from spottune_trainer.checkpoint.lineage import fold
from tests.unit.cli.logs import claim, commit, damaged, history, keys_of, resume, story


def test_the_standing_of_every_record_of_a_story() -> None:
    assert {row.slot: row.standing for row in history(story()).rows} == {
        0: Standing.EFFECTIVE,
        1: Standing.EFFECTIVE,
        2: Standing.LINEAGE,
        3: Standing.ASIDE,
        4: Standing.EFFECTIVE,
        5: Standing.EFFECTIVE,
        6: Standing.VOID,
        7: Standing.LINEAGE,
        8: Standing.LINEAGE,
        9: Standing.HEAD,
    }


def test_a_void_record_says_whom_it_lost_to() -> None:
    row = history(story()).rows[6]
    assert row.why == "written by attempt 1 (writer00), but attempt 2 (writer00) owned the log since slot 4"
    assert row.explained
    late = history([claim(0, 2), claim(1, 1)]).rows[1]
    assert (late.standing, late.explained) == (Standing.VOID, True)
    assert "claims must rise" in late.why


def test_a_commit_of_a_writer_that_never_claimed_is_not_explained() -> None:
    assert not history([claim(0, 2), resume(1, 2, None), commit(2, 1, 5)]).rows[2].explained
    assert history([damaged(0), claim(1, 2), resume(2, 2, None), commit(3, 1, 5)]).rows[3].explained, "its claim may have been in slot 0"


def test_an_attempt_whose_claim_is_damaged_is_still_one() -> None:
    attempts = history([damaged(0), resume(1, 1, None), commit(2, 1, 5)]).attempts
    assert [(a.slot, a.writer.epoch, a.claim) for a in attempts] == [(1, 1, None)]


def test_a_resume_tells_the_step_that_it_goes_on_from() -> None:
    assert [row.step for row in history(story()).rows if row.slot in (0, 1, 5, 9)] == [None, 0, 10, 60]


@pytest.mark.parametrize(
    ("gone", "slot", "data"),
    [((), 2, Data.KEPT), ((2,), 2, Data.SWEPT), ((9,), 9, Data.MISSING), ((8,), 8, Data.MISSING), ((7,), 7, Data.SWEPT)],
)
def test_data_that_retention_may_take_are_swept_and_others_are_missing(gone: tuple[int, ...], slot: int, data: Data) -> None:
    assert history(story(), *gone).rows[slot].data is data


def test_with_the_jobs_keep_last_more_must_be_there() -> None:
    assert history(story(), 7, keep_last=3).rows[7].data is Data.MISSING


def test_a_pinned_commit_is_never_swept() -> None:
    entries = [claim(0, 1), resume(1, 1, None), commit(2, 1, 1, pinned=True), commit(3, 1, 2), commit(4, 1, 3), commit(5, 1, 4)]
    assert [row.data for row in history(entries, 2, 3).rows[2:]] == [Data.MISSING, Data.SWEPT, Data.KEPT, Data.KEPT]


def test_half_a_commit_is_partly_swept() -> None:
    entries = story()
    keys = keys_of(*entries)
    keys.remove(keys_of(entries[2])[0])
    assert understand(fold(entries), keys).rows[2].data is Data.PARTLY


def test_what_was_committed_after_the_keys_were_listed_is_not_missing() -> None:
    entries = story()
    assert understand(fold(entries), keys_of(*entries[:9]), settled=9).rows[9].data is Data.KEPT


def test_of_two_kept_commits_of_one_step_the_newer_is_meant_and_aside_is_none() -> None:
    assert {step: c.slot for step, c in kept_steps(history(story())).items()} == {10: 7, 30: 8, 60: 9}
