"""What must hold for a log and its data, as named checks of what was read: pure. Each violation names the thing and the remedy.

Damage is reported once, where it is; checks that compare records do not judge across a damaged slot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from spottune_cli.history import Data, History, Row, Standing
from spottune_contract.layout import parse_data_key, parse_slot_key, slot_key
from spottune_contract.records import Claim, Commit, Resume
from spottune_trainer.checkpoint.lineage import MIN_KEPT, Damaged, Log, kept, manifest_fault

_PROBE = re.compile(r"probe/[a-z0-9]{8,32}")
_TAIL = re.compile(r"tail/e\d{4,}-[a-z0-9]{8,32}\.log")
RESTORE = "restore the object from the bucket's versions"


@dataclass(frozen=True)
class Violation:
    """Something that must hold and does not."""

    check: str
    """Name of the check, stable."""
    where: str
    """Slot and key."""
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"


@dataclass(frozen=True)
class Evidence:
    """What was read."""

    history: History
    beyond: Sequence[int] = ()
    """Slots that exist after the first missing one."""
    keys: Sequence[str] = ()
    """All keys under the job's prefix."""

    @property
    def log(self) -> Log:
        return self.history.log


Check = Callable[[Evidence], Iterator[Violation]]


def records_can_be_read(evidence: Evidence) -> Iterator[Violation]:
    """Every slot holds a record whose hash is right."""
    for damaged in _unreadable(evidence):
        yield _at(
            records_can_be_read, damaged.slot, damaged.why, f"{RESTORE}; until then readers skip it and go on from what else is intact"
        )


def slots_have_no_gap(evidence: Evidence) -> Iterator[Violation]:
    """Records are created one after the other and never deleted."""
    if evidence.beyond:
        missing = len(evidence.log)
        yield _at(
            slots_have_no_gap,
            missing,
            f"is missing, although slot {evidence.beyond[0]} exists: a record was deleted",
            f"{RESTORE}, and let no lifecycle rule expire log/; trainers refuse to go on (exit 23)",
        )


def void_records_are_explained(evidence: Evidence) -> Iterator[Violation]:
    """What counts for nothing was written by an attempt that a newer one had fenced."""
    for row in evidence.history.rows:
        if row.standing is Standing.VOID and not row.explained:
            yield _at(
                void_records_are_explained,
                row.slot,
                f"{row.why}, and its writer never claimed the log",
                "find out who else writes under this prefix, and take the right to do so away; the record counts for nothing",
            )


def attempts_say_what_they_go_on_from(evidence: Evidence) -> Iterator[Violation]:
    """An owner's first record after its claim is a RESUME, and its parent is a COMMIT that counts."""
    resumed = False
    for row in _effective(evidence):
        entry = row.entry
        if isinstance(entry, Claim):
            resumed = False
        elif isinstance(entry, Damaged):
            resumed = True  # the RESUME may have been here
        elif isinstance(entry, Resume):
            resumed = True
            if entry.parent is not None and entry.parent not in evidence.log.parents and not _damaged(evidence, entry.parent):
                yield _at(
                    attempts_say_what_they_go_on_from,
                    row.slot,
                    f"resumes from slot {entry.parent}, which is no commit that counts",
                    _REPORT,
                )
        elif not resumed:
            resumed = True
            yield _at(attempts_say_what_they_go_on_from, row.slot, "commits before saying what its attempt goes on from", _REPORT)


def steps_rise(evidence: Evidence) -> Iterator[Violation]:
    """A commit is further than the one before it in the lineage, or says the same state again; FINAL may end a run without a step."""
    for slot, parent in evidence.log.parents.items():
        if parent is None or _damage_between(evidence, parent, slot):
            continue
        older, newer = evidence.log.commit(parent), evidence.log.commit(slot)
        again = newer.step == older.step and (newer.reason == "final" or newer.digests == older.digests)
        if (newer.step <= older.step and not again) or newer.samples_seen < older.samples_seen:
            yield _at(
                steps_rise,
                slot,
                f"is of step {newer.step} ({newer.samples_seen} samples), the commit before it in slot {parent} of step {older.step} ({older.samples_seen})",
                _REPORT,
            )


def copies_are_equal(evidence: Evidence) -> Iterator[Violation]:
    """A `recommit` is the very state that its attempt resumed from."""
    for slot, parent in evidence.log.parents.items():
        commit = evidence.log.commit(slot)
        if commit.reason != "recommit" or parent is None or _damage_between(evidence, parent, slot):
            continue
        if commit.digests != evidence.log.commit(parent).digests:
            yield _at(copies_are_equal, slot, f"says to repeat the commit in slot {parent}, but its digests differ", _REPORT)


def imports_come_first(evidence: Evidence) -> Iterator[Violation]:
    """What was taken from another job begins the lineage and names where it comes from; nothing else does."""
    for slot, parent in evidence.log.parents.items():
        commit = evidence.log.commit(slot)
        if (commit.reason == "imported") != (commit.origin is not None):
            yield _at(imports_come_first, slot, f"has reason {commit.reason} and the origin {commit.origin}", _REPORT)
        elif commit.origin is not None and parent is not None:
            yield _at(imports_come_first, slot, f"takes a state from another job although slot {parent} has one of this job", _REPORT)


def nothing_counts_after_the_end(evidence: Evidence) -> Iterator[Violation]:
    """A finished log is left alone."""
    if _unreadable(evidence):
        return
    final = None
    for row in _effective(evidence):
        if final is not None:
            yield _at(nothing_counts_after_the_end, row.slot, f"counts although the run was finished in slot {final}", _REPORT)
            return
        if isinstance(row.entry, Commit) and row.entry.reason == "final":
            final = row.slot


def manifests_are_sound(evidence: Evidence) -> Iterator[Violation]:
    """A commit names files of its own folder, with parts in order and a digest each."""
    for row in _effective(evidence):
        if isinstance(row.entry, Commit) and (fault := manifest_fault(row.entry)):
            yield _at(manifests_are_sound, row.slot, fault, _REPORT)


def keys_are_ours(evidence: Evidence) -> Iterator[Violation]:
    """Nothing lies under the job's prefix but its log, its data, probes and the ends of attempts' own logs."""
    highest = None if _unreadable(evidence) or evidence.beyond else evidence.log.max_epoch
    for key in evidence.keys:
        data = parse_data_key(key)
        if data is None and parse_slot_key(key) is None and not _PROBE.fullmatch(key) and not _TAIL.fullmatch(key):
            yield Violation("keys_are_ours", key, "is no object of SpotTune", "find out who writes under this prefix, and remove it")
        elif data is not None and highest is not None and data.epoch > highest:
            yield Violation(
                "keys_are_ours",
                key,
                f"belongs to attempt {data.epoch}, which never claimed the log (the highest is {highest})",
                "find out who else writes under this prefix",
            )


CHECKS: tuple[Check, ...] = (
    slots_have_no_gap,
    records_can_be_read,
    void_records_are_explained,
    attempts_say_what_they_go_on_from,
    steps_rise,
    copies_are_equal,
    imports_come_first,
    nothing_counts_after_the_end,
    manifests_are_sound,
    keys_are_ours,
)
"""In the order in which they are asked; data are downloaded after all of them."""


def violations(evidence: Evidence) -> Iterator[Violation]:
    """All that is wrong with records and keys, check by check."""
    for check in CHECKS:
        yield from check(evidence)


def to_download(history: History, keep_last: int | None) -> tuple[list[Commit], list[Commit]]:
    """Commits whose data must be there, and others of the lineage whose data happen to be there whole; the newest first."""
    must = kept(history.log, keep_last or MIN_KEPT)
    slots = {commit.slot for commit in must}
    whole = {row.slot for row in history.rows if row.data is Data.KEPT}
    also = [commit for commit in history.log.lineage() if commit.slot in whole and commit.slot not in slots]
    return [c for c in must if manifest_fault(c) is None], [c for c in also if manifest_fault(c) is None]


def bad_data(commit: Commit, key: str, fault: str) -> Violation:
    """What a failed download or comparison means."""
    return Violation(
        "data_are_intact",
        f"slot {commit.slot} (step {commit.step}), {key}",
        fault,
        f"{RESTORE}; a next attempt steps over this commit and uses the one before it",
    )


def orphans(evidence: Evidence) -> list[str]:
    """Data keys that no commit which counts names: saves under way, or leftovers that the next attempt sweeps."""
    named = {file.key for slot in evidence.log.parents for file in evidence.log.commit(slot).files}
    return [key for key in evidence.keys if parse_data_key(key) is not None and key not in named]


_REPORT = "no trainer of this release writes that: keep the bucket as it is and report it, with the output of `spottune log -o json`"


def _at(check: Check, slot: int, what: str, remedy: str) -> Violation:
    return Violation(check.__name__, f"slot {slot} ({slot_key(slot)})", what, remedy)


def _effective(evidence: Evidence) -> Iterator[Row]:
    """Rows that count, and damaged ones."""
    return (row for row in evidence.history.rows if row.standing is not Standing.VOID)


def _unreadable(evidence: Evidence) -> list[Damaged]:
    return [entry for entry in evidence.log.entries if isinstance(entry, Damaged)]


def _damaged(evidence: Evidence, slot: int) -> bool:
    return any(damaged.slot == slot for damaged in _unreadable(evidence))


def _damage_between(evidence: Evidence, older: int, newer: int) -> bool:
    return any(older < damaged.slot < newer for damaged in _unreadable(evidence))
