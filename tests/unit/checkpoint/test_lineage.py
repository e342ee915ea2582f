"""Which records count, what may be resumed from, what a slot means, what may be deleted: all as tables of small logs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spottune_contract.layout import data_key
from spottune_contract.records import Claim, Commit, CommitReason, DataFile, Rejected, Resume
from spottune_trainer.checkpoint.lineage import (
    ClaimStep,
    Damaged,
    Entry,
    Honesty,
    Log,
    Writer,
    WriteStep,
    deletable,
    fold,
    interpret_claim_slot,
    interpret_probe,
    interpret_slot,
    kept,
    listed_slots,
    manifest_fault,
    may_start_over,
    needs_recommit,
    passed_over,
    resume_candidates,
    shortfall,
    view,
)
from spottune_trainer.checkpoint.store import AlreadyExists, Created, PutResult, Unknown

SHA = "0" * 64


def writer(epoch: int, twin: str = "a") -> str:
    return f"writer{epoch}{twin}x"


def claim(slot: int, epoch: int, twin: str = "a") -> Claim:
    return Claim(slot=slot, epoch=epoch, writer=writer(epoch, twin), pod_uid="", spec_hash="", compute_class="")


def resume(slot: int, epoch: int, parent: int | None, *rejected: int, twin: str = "a") -> Resume:
    return Resume(
        slot=slot, epoch=epoch, writer=writer(epoch, twin), parent=parent, rejected=tuple(Rejected(slot=r, why="damaged") for r in rejected)
    )


def commit(slot: int, epoch: int, step: int, reason: CommitReason = "interval", *, twin: str = "a", pinned: bool = False) -> Commit:
    save = f"save{slot:04d}"
    key = data_key(epoch, writer(epoch, twin), step, save, "cursor.json")
    file = DataFile(name="cursor.json", key=key, size=1, sha256=SHA)
    return Commit(
        slot=slot,
        epoch=epoch,
        writer=writer(epoch, twin),
        save=save,
        step=step,
        samples_seen=step,
        reason=reason,
        pinned=pinned,
        files=(file,),
        digests={"cursor.json": SHA},
    )


def slots(log: Log) -> list[int]:
    return [c.slot for c in resume_candidates(log)]


def effective(log: Log) -> list[int]:
    return [slot for slot, counts in enumerate(log.effective) if counts]


FIRST = [claim(0, 1), resume(1, 1, None), commit(2, 1, 10), commit(3, 1, 20)]
"""A first attempt that committed twice."""


@pytest.mark.parametrize(
    ("entries", "counting", "candidates"),
    [
        pytest.param([], [], [], id="an empty log"),
        pytest.param(FIRST, [0, 1, 2, 3], [3, 2], id="one attempt"),
        pytest.param([*FIRST, claim(4, 2), commit(5, 1, 30)], [0, 1, 2, 3, 4], [3, 2], id="a fenced writer's commit is void"),
        pytest.param([*FIRST, claim(4, 1, "b"), commit(5, 1, 30)], [0, 1, 2, 3, 5], [5, 3, 2], id="a second claim of an epoch is void"),
        pytest.param([claim(0, 2), claim(1, 1), resume(2, 1, None)], [0], [], id="a lower claim is void, and so is its resume"),
        pytest.param([*FIRST, commit(4, 1, 30, twin="b")], [0, 1, 2, 3], [3, 2], id="same epoch but another writer is void"),
        pytest.param([*FIRST, claim(4, 2), resume(5, 2, 3), commit(6, 2, 30)], [0, 1, 2, 3, 4, 5, 6], [6, 3, 2], id="a second attempt"),
        pytest.param([*FIRST, claim(4, 2), resume(5, 2, 2, 3), commit(6, 2, 30)], [0, 1, 2, 3, 4, 5, 6], [6, 2], id="a rejection"),
        pytest.param([*FIRST, resume(4, 1, 2), commit(5, 1, 15)], [0, 1, 2, 3, 4, 5], [5, 2], id="a rollback"),
        pytest.param(
            [*FIRST, claim(4, 2), commit(5, 2, 30)], [0, 1, 2, 3, 4, 5], [5, 3, 2], id="a commit without a resume goes on from the head"
        ),
        pytest.param([*FIRST, Damaged(4, "?"), commit(5, 1, 30)], [0, 1, 2, 3, 5], [5, 3, 2], id="a damaged slot is skipped"),
        pytest.param(
            [*FIRST, Damaged(4, "?"), resume(5, 2, 3), commit(6, 2, 30)],
            [0, 1, 2, 3, 5, 6],
            [6, 3, 2],
            id="a damaged claim is known by what its writer did next",
        ),
        pytest.param([*FIRST, commit(4, 2, 30)], [0, 1, 2, 3], [3, 2], id="nobody owns the log without a claim or damage"),
        pytest.param(
            [*FIRST[:3], Damaged(3, "?"), claim(4, 2), resume(5, 2, 3), commit(6, 2, 30)],
            [0, 1, 2, 4, 5, 6],
            [6, 2],
            id="a parent whose record was damaged later is stepped over",
        ),
        pytest.param([claim(0, 3), resume(1, 3, 7), commit(2, 3, 5)], [0, 1, 2], [2], id="a parent beyond the log is no parent"),
    ],
)
def test_effectiveness_and_lineage_follow_from_the_log_alone(entries: list[Entry], counting: list[int], candidates: list[int]) -> None:
    log = fold(entries)
    assert effective(log) == counting
    assert slots(log) == candidates


entries_strategy = st.lists(
    st.tuples(st.sampled_from(["claim", "resume", "commit", "damaged"]), st.integers(1, 4), st.sampled_from("ab"), st.integers(0, 12)),
    max_size=25,
)


def build(parts: list[tuple[str, int, str, int]]) -> list[Entry]:
    made: list[Entry] = []
    for slot, (kind, epoch, twin, number) in enumerate(parts):
        if kind == "claim":
            made.append(claim(slot, epoch, twin))
        elif kind == "resume":
            made.append(resume(slot, epoch, number if number < slot else None, twin=twin))
        elif kind == "commit":
            made.append(commit(slot, epoch, number, twin=twin))
        else:
            made.append(Damaged(slot, "?"))
    return made


@given(entries_strategy)
def test_any_log_can_be_read_and_epochs_that_count_never_fall(parts: list[tuple[str, int, str, int]]) -> None:
    log = fold(build(parts))
    counting = [e for e, counts in zip(log.entries, log.effective, strict=True) if counts and not isinstance(e, Damaged)]
    epochs = [e.epoch for e in counting]
    assert epochs == sorted(epochs)
    assert log.max_epoch == max(epochs, default=0)
    lineage = slots(log)
    assert lineage == sorted(set(lineage), reverse=True)
    assert set(lineage) <= set(effective(log))
    assert view(log).head_slot == len(parts) - 1


@given(entries_strategy, st.integers(0, 25))
def test_what_counts_never_depends_on_what_comes_later(parts: list[tuple[str, int, str, int]], cut: int) -> None:
    entries = build(parts)
    assert fold(entries[:cut]).effective == fold(entries).effective[:cut]


@given(entries_strategy)
def test_each_epoch_has_at_most_one_writer_that_counts(parts: list[tuple[str, int, str, int]]) -> None:
    log = fold(build(parts))
    writers: dict[int, set[str]] = {}
    for entry, counts in zip(log.entries, log.effective, strict=True):
        if counts and not isinstance(entry, Damaged):
            writers.setdefault(entry.epoch, set()).add(entry.writer)
    assert all(len(names) == 1 for names in writers.values())


def test_the_view_tells_the_operator_the_head_and_the_highest_epoch() -> None:
    said = view(fold([*FIRST, claim(4, 7)]))
    assert (said.head_slot, said.max_epoch, said.final) == (4, 7, False)
    assert said.last_commit is not None
    assert said.last_commit.step == 20
    assert view(Log()).head_slot == -1


def test_a_final_commit_ends_the_run_even_if_a_claim_follows() -> None:
    log = fold([*FIRST, commit(4, 1, 30, "final"), claim(5, 2)])
    assert log.final is not None
    assert log.final.slot == 4
    assert view(log).final


def test_a_void_final_commit_ends_nothing() -> None:
    assert fold([*FIRST, claim(4, 2), commit(5, 1, 30, "final")]).final is None


# --- claiming -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "step"),
    [
        (None, ClaimStep.AGAIN),
        (claim(4, 2), ClaimStep.OWNED),
        (claim(4, 2, "b"), ClaimStep.STALE),
        (claim(4, 3), ClaimStep.STALE),
        (commit(4, 3, 30), ClaimStep.STALE),
        (commit(4, 1, 30), ClaimStep.NEXT),
        (resume(4, 1, 2), ClaimStep.NEXT),
        (claim(4, 1, "b"), ClaimStep.NEXT),
        (Damaged(4, "?"), ClaimStep.NEXT),
    ],
)
def test_a_claimer_decides_by_what_is_in_the_slot(found: Entry | None, step: ClaimStep) -> None:
    assert interpret_claim_slot(found, claim(4, 2)) is step


# --- writing --------------------------------------------------------------------------------------------------------------------

ME = Writer(2, writer(2))


@pytest.mark.parametrize(
    ("found", "step"),
    [
        (None, WriteStep.AGAIN),
        (commit(4, 2, 30), WriteStep.WRITTEN),
        (commit(4, 2, 30).model_copy(update={"save": "othersave"}), WriteStep.EARLIER),
        (resume(4, 2, 3), WriteStep.EARLIER),
        (claim(4, 3), WriteStep.FENCED),
        (commit(4, 3, 30), WriteStep.FENCED),
        (claim(4, 2, "b"), WriteStep.FENCED),
        (commit(4, 1, 30), WriteStep.VOID),
        (resume(4, 1, 2), WriteStep.VOID),
        (claim(4, 1), WriteStep.UNCLAIMED),
        (Damaged(4, "?"), WriteStep.UNREADABLE),
    ],
)
def test_a_committer_decides_by_what_is_in_the_slot(found: Entry | None, step: WriteStep) -> None:
    assert interpret_slot(found, ME, commit(4, 2, 30)) is step


def test_a_resume_is_written_only_if_its_parent_is_there() -> None:
    assert interpret_slot(resume(4, 2, 3), ME, resume(4, 2, 3)) is WriteStep.WRITTEN
    assert interpret_slot(resume(4, 2, 2), ME, resume(4, 2, 3)) is WriteStep.EARLIER


def test_looking_ahead_without_a_record_of_ones_own_never_says_written() -> None:
    assert interpret_slot(commit(4, 2, 30), ME, None) is WriteStep.EARLIER
    assert interpret_slot(claim(4, 3), ME, None) is WriteStep.FENCED


# --- reading --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "min_slot", "listed", "wrong"),
    [
        (0, 0, [], False),
        (5, 5, [0, 1, 4], False),
        (5, 3, [], False),
        (5, 6, [0, 1, 2, 3, 4], True),
        (0, 1, [], True),
        (3, 0, [0, 1, 2, 4], True),
        (0, 0, [7], True),
    ],
)
def test_a_log_that_is_shorter_than_known_or_has_a_gap_is_not_written_to(
    length: int, min_slot: int, listed: list[int], wrong: bool
) -> None:
    assert (shortfall(length, min_slot, listed) is not None) is wrong


def test_keys_that_are_no_slots_are_not_listed() -> None:
    assert listed_slots(["log/0000000003.json", "log/readme", "log/3.json", "log/0000000001.json", "data/x"]) == [1, 3]


@pytest.mark.parametrize(
    ("entries", "allowed"),
    [
        ([], True),
        ([claim(0, 1), resume(1, 1, None)], True),
        ([claim(0, 1), resume(1, 1, None), Damaged(2, "?")], False),
        ([Damaged(0, "?")], False),
        ([Damaged(0, "?"), resume(1, 1, None)], True),
        ([claim(0, 1), resume(1, 1, None), Damaged(2, "?"), claim(3, 2), resume(4, 2, 2)], False),
        ([claim(0, 1), resume(1, 1, None), commit(2, 1, 10), claim(3, 2), resume(4, 2, None)], False),
        ([claim(0, 1, "b"), resume(1, 1, None), commit(2, 1, 10)], False),
        (FIRST, False),
    ],
)
def test_a_run_starts_over_only_if_no_commit_can_have_been(entries: list[Entry], allowed: bool) -> None:
    assert may_start_over(fold(entries)) is allowed


def test_damaged_slots_newer_than_the_parent_are_recorded_as_rejected() -> None:
    log = fold([*FIRST, Damaged(4, "hash differs"), claim(5, 2)])
    assert [r.slot for r in passed_over(log, 3)] == [4]
    assert passed_over(log, 4) == ()
    assert passed_over(fold([*log.entries, resume(6, 2, 3, 4)]), 3) == ()


def test_a_parent_damaged_after_it_was_resumed_from_is_no_reason_to_start_over() -> None:
    log = fold([claim(0, 1), resume(1, 1, None), Damaged(2, "hash differs"), claim(3, 2), resume(4, 2, 2), claim(5, 3)])
    assert slots(log) == []
    assert not may_start_over(log)


def test_a_parent_damaged_after_it_was_resumed_from_is_recorded_as_rejected() -> None:
    log = fold([*FIRST[:3], Damaged(3, "hash differs"), claim(4, 2), resume(5, 2, 3), claim(6, 3)])
    assert slots(log) == [2]
    assert [r.slot for r in passed_over(log, 2)] == [3]


def test_a_record_whose_writer_never_claimed_counts_for_nothing_and_is_named() -> None:
    log = fold([*FIRST, commit(4, 1, 30, twin="b"), commit(5, 7, 40)])
    assert slots(log) == slots(fold(FIRST))
    assert [r.slot for r in passed_over(log, 3)] == [4, 5]


def test_a_late_record_of_a_fenced_writer_is_no_damage() -> None:
    assert fold([*FIRST, claim(4, 2), commit(5, 1, 30)]).damaged == []


def test_a_parent_that_is_not_the_newest_commit_is_committed_again() -> None:
    log = fold([*FIRST, claim(4, 2)])
    assert not needs_recommit(log, log.commit(3))
    assert needs_recommit(log, log.commit(2))
    died_before = fold([*FIRST, claim(4, 2), resume(5, 2, 2, 3), claim(6, 3)])
    assert needs_recommit(died_before, died_before.commit(2))


# --- manifests ------------------------------------------------------------------------------------------------------------------


def test_a_manifest_that_is_in_order_has_no_fault() -> None:
    assert manifest_fault(commit(2, 1, 10)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"step": 11},
        {"save": "othersave"},
        {"epoch": 2},
        {"writer": writer(2)},
        {"digests": {}},
        {"digests": {"cursor.json": SHA, "more.json": SHA}},
        {"files": (commit(2, 1, 10).files[0].model_copy(update={"part": 1}),)},
        {"files": (commit(2, 1, 10).files[0].model_copy(update={"size": 1 << 40}),)},
        {"files": (*commit(2, 1, 10).files, *commit(2, 1, 10).files)},
    ],
)
def test_a_manifest_that_does_not_belong_to_its_commit_is_refused(change: dict[str, object]) -> None:
    assert manifest_fault(commit(2, 1, 10).model_copy(update=change)) is not None


# --- retention ------------------------------------------------------------------------------------------------------------------


def keys(*commits: Commit) -> list[str]:
    return [file.key for c in commits for file in c.files]


LONG = [*FIRST, commit(4, 1, 30), claim(5, 2), resume(6, 2, 4), commit(7, 2, 40)]


def test_the_newest_and_the_pinned_commits_keep_their_data() -> None:
    log = fold([claim(0, 1), resume(1, 1, None), commit(2, 1, 10, pinned=True), commit(3, 1, 20), commit(4, 1, 30), commit(5, 1, 40)])
    assert [c.slot for c in kept(log, 2)] == [5, 4, 2]


def test_older_data_go_first_then_what_no_commit_names_of_epochs_below() -> None:
    log = fold(LONG)
    orphan = data_key(1, writer(1, "z"), 33, "savexxxx", "cursor.json")
    under_way = data_key(2, writer(2), 50, "savenext", "cursor.json")
    newer = data_key(3, writer(3), 50, "savenext", "cursor.json")
    foreign = ["data/readme.txt", "log/0000000000.json", "data/e0001-writer1ax/../../x"]
    listed = [orphan, under_way, newer, *foreign, *keys(*(log.commit(s) for s in (2, 3, 4, 7)))]
    assert deletable(log, ME, listed, 2) == [*keys(log.commit(2), log.commit(3)), orphan]


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(LONG[:-1], id="before the first own commit"),
        pytest.param(LONG[:-2], id="before the resume"),
        pytest.param([*LONG, claim(8, 3)], id="after losing the log"),
        pytest.param(FIRST, id="without a claim"),
    ],
)
def test_nothing_is_deleted(entries: list[Entry]) -> None:
    log = fold(entries)
    assert deletable(log, ME, keys(*(log.commit(s) for s in (2, 3))), 2) == []


def test_a_rejected_commit_is_deleted_once_an_own_commit_stands_in_for_it() -> None:
    log = fold([*FIRST, claim(4, 2), resume(5, 2, 2, 3), commit(6, 2, 10, "recommit")])
    assert deletable(log, ME, keys(log.commit(2), log.commit(3), log.commit(6)), 2) == keys(log.commit(3))


@given(entries_strategy, st.integers(1, 4), st.sampled_from("ab"), st.integers(2, 4))
def test_retention_never_takes_what_may_be_resumed_from(parts: list[tuple[str, int, str, int]], epoch: int, twin: str, keep: int) -> None:
    log = fold(build(parts))
    everything = keys(*(e for e in log.entries if isinstance(e, Commit)))
    gone = set(deletable(log, Writer(epoch, writer(epoch, twin)), everything, keep))
    assert not gone & set(keys(*resume_candidates(log)[:keep]))
    assert not any(key.startswith(f"data/e{higher:04d}") for key in gone for higher in range(epoch + 1, 6))


# --- the probe ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("racing", "third", "found", "honesty"),
    [
        ([Created(), AlreadyExists()], AlreadyExists(), b"one", Honesty.HONEST),
        ([AlreadyExists(), Created()], AlreadyExists(), b"two", Honesty.HONEST),
        ([Created(), Unknown("409")], AlreadyExists(), b"one", Honesty.HONEST),
        ([Created(), Created()], AlreadyExists(), b"two", Honesty.DISHONEST),
        ([Created(), AlreadyExists()], Created(), b"third", Honesty.DISHONEST),
        ([Created(), AlreadyExists()], AlreadyExists(), b"two", Honesty.DISHONEST),
        ([Created(), Unknown("timeout")], AlreadyExists(), b"two", Honesty.DISHONEST),
        ([Unknown("timeout"), Unknown("timeout")], Created(), b"third", Honesty.UNCLEAR),
        ([Unknown("timeout"), AlreadyExists()], AlreadyExists(), b"one", Honesty.UNCLEAR),
        ([Created(), AlreadyExists()], Unknown("503"), b"one", Honesty.UNCLEAR),
        ([Created(), AlreadyExists()], AlreadyExists(), None, Honesty.UNCLEAR),
    ],
)
def test_a_probe_trusts_only_a_store_with_one_winner(
    racing: list[PutResult], third: PutResult, found: bytes | None, honesty: Honesty
) -> None:
    assert interpret_probe(racing, [b"one", b"two"], third, found) is honesty
