from __future__ import annotations

from typing import Any

import pytest

from examples.demo.proof import COMPARED, Interrupted, NotFinished, costs, final_digests
from spottune_contract.records import Claim, Commit, CommitReason, Resume

WRITERS = {1: "writer000001", 2: "writer000002", 3: "writer000003"}


def at(second: int) -> str:
    return f"1970-01-01T00:{second // 60:02d}:{second % 60:02d}+00:00"


def claim(slot: int, epoch: int, second: int) -> Claim:
    return Claim(slot=slot, epoch=epoch, writer=WRITERS[epoch], written_at=at(second), pod_uid="u", spec_hash="h", compute_class="cpu")


def commit(slot: int, epoch: int, step: int, second: int, reason: CommitReason, **more: Any) -> Commit:
    return Commit(
        slot=slot,
        epoch=epoch,
        writer=WRITERS[epoch],
        written_at=at(second),
        save="save00000000",
        step=step,
        samples_seen=step,
        reason=reason,
        files=(),
        **more,
    )


def log(final: bool = True) -> list[Claim | Resume | Commit]:
    records: list[Claim | Resume | Commit] = [
        claim(0, 1, 10),
        Resume(slot=1, epoch=1, writer=WRITERS[1], written_at=at(11), parent=None),
        commit(2, 1, 20, 110, "notice"),
        claim(3, 2, 120),
        Resume(slot=4, epoch=2, writer=WRITERS[2], written_at=at(121), parent=2),
    ]
    if final:
        records.append(commit(5, 2, 60, 300, "final", digests=dict.fromkeys(COMPARED, "0" * 64)))
    return records


def test_a_notice_costs_the_seconds_to_its_commit_and_no_step() -> None:
    (cost,) = costs(log(), [Interrupted("notice", 100.0, 1, 20, told=True)], {1: 20.0, 2: 130.0})
    assert (cost.resumed_from, cost.redone, cost.notice_to_commit, cost.to_next_step) == (20, 0, 10.0, 30.0)


def test_a_power_cut_costs_the_steps_since_the_last_commit() -> None:
    (cost,) = costs(log(), [Interrupted("power-off", 115.0, 1, 23, told=False)], {2: 130.0})
    assert (cost.redone, cost.notice_to_commit) == (3, None)


def test_an_attempt_that_never_finished_a_step_has_no_next_step() -> None:
    (cost,) = costs(log(), [Interrupted("notice", 100.0, 1, 20, told=True)], {})
    assert cost.to_next_step is None


def test_the_digests_are_those_of_the_final_record() -> None:
    assert set(final_digests(log())) == set(COMPARED)


def test_a_log_without_a_final_record_proves_nothing() -> None:
    with pytest.raises(NotFinished):
        final_digests(log(final=False))


def test_an_attempt_that_claimed_and_was_taken_away_before_it_resumed_is_not_what_the_job_went_on_from() -> None:
    records = [*log(final=False)[:4], claim(4, 3, 130), Resume(slot=5, epoch=3, writer=WRITERS[3], written_at=at(131), parent=2)]
    (cost,) = costs(records, [Interrupted("notice", 100.0, 1, 20, told=True)], {1: 20.0, 3: 140.0})
    assert (cost.resumed_from, cost.redone, cost.to_next_step) == (20, 0, 40.0)


def test_an_attempt_that_finishes_the_job_after_its_notice_costs_no_step() -> None:
    records = [*log(final=False)[:3], commit(3, 1, 60, 115, "final", digests=dict.fromkeys(COMPARED, "0" * 64))]
    (cost,) = costs(records, [Interrupted("notice", 100.0, 1, 59, told=True)], {1: 20.0})
    assert (cost.redone, cost.to_next_step) == (0, None)
