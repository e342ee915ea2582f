"""What every record of a log means to a reader: pure, one answer per record, made before anything is shown or judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from spottune_contract.records import Claim, Commit, Resume
from spottune_trainer.checkpoint.lineage import MIN_KEPT, Damaged, Entry, Log, Writer, kept


class Standing(StrEnum):
    """What a record counts for; exactly one each."""

    EFFECTIVE = "effective"
    """A CLAIM or RESUME that counted."""
    HEAD = "head"
    """The COMMIT that a reader would resume from."""
    LINEAGE = "lineage"
    """A COMMIT on the way to the head."""
    ASIDE = "aside"
    """A COMMIT that counted, until a later RESUME went on from an older one."""
    VOID = "void"
    """Written by somebody who did not own the log: counts for nothing."""
    DAMAGED = "damaged"
    """The slot holds something that is no record."""


class Data(StrEnum):
    """What is left of a COMMIT's data."""

    KEPT = "kept"
    PARTLY = "partly swept"
    SWEPT = "swept"
    MISSING = "missing"
    """Gone, although retention never touches this commit."""
    NONE = ""
    """The record is no COMMIT."""


@dataclass(frozen=True)
class Row:
    """One slot, understood."""

    slot: int
    entry: Entry
    standing: Standing
    data: Data
    why: str = ""
    """Why it is void or damaged."""
    explained: bool = True
    """False: void, and no way is known by which our own writers could have written it."""
    step: int | None = None
    """Step of the state that a RESUME goes on from, or that a COMMIT holds; None if that is not known."""

    @property
    def size(self) -> int:
        """Bytes of a COMMIT's data, as its record says."""
        return sum(file.size for file in self.entry.files) if isinstance(self.entry, Commit) else 0


@dataclass(frozen=True)
class Attempt:
    """A writer that owned the log, from its first effective record on."""

    slot: int
    writer: Writer
    claim: Claim | None
    """None if its CLAIM is in a damaged slot."""


@dataclass(frozen=True)
class History:
    """A whole log, understood."""

    log: Log
    rows: tuple[Row, ...]
    attempts: tuple[Attempt, ...]

    @property
    def head(self) -> Commit | None:
        return None if self.log.head is None else self.log.commit(self.log.head)


def understand(log: Log, keys: Iterable[str], *, settled: int | None = None, keep_last: int | None = None) -> History:
    """Classify every record. `keys`: those under `data/`, as listed when the log had `settled` slots (None: as many as now).

    `keep_last`: commits whose data retention keeps; None if that is not known, then the two that it always keeps.
    """
    present = frozenset(keys)
    settled = len(log) if settled is None else settled
    lineage = {commit.slot for commit in log.lineage()}
    safe = {commit.slot for commit in kept(log, keep_last or MIN_KEPT)}
    rows: list[Row] = []
    attempts: list[Attempt] = []
    known: dict[Writer, int] = {}
    damaged = False
    for entry, effective in zip(log.entries, log.effective, strict=True):
        if isinstance(entry, Damaged):
            damaged = True
            rows.append(Row(entry.slot, entry, Standing.DAMAGED, Data.NONE, entry.why))
            continue
        writer = Writer(entry.epoch, entry.writer)
        if effective and (not attempts or attempts[-1].writer != writer):
            attempts.append(Attempt(entry.slot, writer, entry if isinstance(entry, Claim) else None))
            known[writer] = entry.slot
        data = _data(entry, present, entry.slot in safe, entry.slot >= settled) if isinstance(entry, Commit) else Data.NONE
        if effective:
            rows.append(Row(entry.slot, entry, _standing(entry, log.head, lineage), data, step=_step(entry, log)))
        else:
            explained = isinstance(entry, Claim) or writer in known or damaged
            rows.append(
                Row(
                    entry.slot,
                    entry,
                    Standing.VOID,
                    data,
                    _why_void(entry, attempts[-1] if attempts else None),
                    explained,
                    _step(entry, log),
                )
            )
    return History(log, tuple(rows), tuple(attempts))


def kept_steps(history: History) -> Mapping[int, Commit]:
    """Steps of the lineage whose data are all there, in rising order; of two commits of one step the newer."""
    whole = {row.slot for row in history.rows if row.data is Data.KEPT}
    found: dict[int, Commit] = {}
    for commit in history.log.lineage():
        if commit.slot in whole:
            found.setdefault(commit.step, commit)
    return dict(sorted(found.items()))


def _step(entry: Entry, log: Log) -> int | None:
    if isinstance(entry, Commit):
        return entry.step
    if isinstance(entry, Resume):
        return 0 if entry.parent is None else log.commit(entry.parent).step if entry.parent in log.parents else None
    return None


def _standing(entry: Entry, head: int | None, lineage: set[int]) -> Standing:
    if not isinstance(entry, Commit):
        return Standing.EFFECTIVE
    if entry.slot == head:
        return Standing.HEAD
    return Standing.LINEAGE if entry.slot in lineage else Standing.ASIDE


def _data(commit: Commit, present: frozenset[str], safe: bool, newer_than_listing: bool) -> Data:
    there = sum(file.key in present for file in commit.files)
    if there == len(commit.files) or newer_than_listing:
        return Data.KEPT
    if safe:
        return Data.MISSING
    return Data.PARTLY if there else Data.SWEPT


def _why_void(entry: Entry, owner: Attempt | None) -> str:
    assert not isinstance(entry, Damaged)
    if owner is None:
        return f"attempt {entry.epoch} had not claimed the log"
    held = f"attempt {owner.writer.epoch} ({owner.writer.token[:8]}) owned the log since slot {owner.slot}"
    if isinstance(entry, Claim):
        return f"claimed attempt {entry.epoch}, but {held}: claims must rise"
    return f"written by attempt {entry.epoch} ({entry.writer[:8]}), but {held}"
