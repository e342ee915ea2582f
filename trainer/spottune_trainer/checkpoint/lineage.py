"""The checkpoint protocol's decisions: pure functions of the log, without storage, time or tensors.

The log is a row of slots, each created once. `fold` reads it forward and says which records count:

* A CLAIM is effective if its epoch is above that of every effective CLAIM before it; its writer then owns the log.
* A RESUME or COMMIT is effective if its writer owns the log at that place. Everything else is void and only occupies its slot.
* A damaged slot is occupied by something that is no record. If a later RESUME or COMMIT bears an epoch above every effective
  CLAIM, its writer's CLAIM must have been in a damaged slot (nobody writes one before claiming), so it owns the log from there.

`head` is the COMMIT that a reader would resume from: the last one of the lineage. A RESUME moves it to its parent, a COMMIT to
itself, a CLAIM leaves it. The shell (`protocol`) only asks the questions below and does what they answer.

A long log need not be read whole. A writer puts slot n+1 only after it has read slot n and stops at a CLAIM above its own, so a
COMMIT that can be read was put by the owner of its place: a fold may start there (`Anchor`). Whatever is odd behind it, or points
before it, makes the fold `doubtful`, and the log is read whole after all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from spottune_contract.layout import MAX_OBJECT_BYTES, parse_data_key, parse_slot_key, save_prefix
from spottune_contract.progress import CommitView, LogView
from spottune_contract.records import Claim, Commit, Rejected, Resume
from spottune_trainer.checkpoint.store import AlreadyExists, Created, PutResult


@dataclass(frozen=True)
class Damaged:
    """A slot that is occupied by something that is no record of ours, read again and again."""

    slot: int
    why: str


Entry = Claim | Resume | Commit | Damaged


@dataclass(frozen=True)
class Writer:
    """Who writes: one process of one attempt."""

    epoch: int
    token: str


@dataclass(frozen=True)
class Anchor:
    """Where a fold starts that leaves out the slots before `commit`."""

    commit: Commit
    first_claim: Claim
    """The record of slot 0."""
    pinned: tuple[Commit, ...] = ()
    """The commits in `commit.pins`."""


class Log:
    """The log read forward: grows by `add`, one slot after the other. Everything in it follows from the entries alone.

    With an anchor it starts there: `entries`, `effective`, `parents` and `lineage` then know nothing older.
    """

    def __init__(self, anchor: Anchor | None = None) -> None:
        self.base = anchor.commit.slot if anchor else 0
        """Slot of the first entry; 0 if the log is known whole."""
        self.older_pins: tuple[Commit, ...] = anchor.pinned if anchor else ()
        """Pinned commits of the lineage before `base`."""
        self.doubtful = False
        """Something behind the anchor can only be judged with what is before it. Never true of a whole log."""
        self.entries: list[Entry] = []
        self.effective: list[bool] = []
        self.owner: Writer | None = None
        self.head: int | None = None
        """Slot of the COMMIT that a reader would resume from."""
        self.parents: dict[int, int | None] = {}
        """Effective COMMIT → the one before it in the lineage."""
        self.damaged: list[Damaged] = []
        """Slots that cannot be read, and records whose writer has no CLAIM before them: only damage or foreign hands explain those."""
        self.first_claim: Claim | None = None
        """The oldest CLAIM that counts, known of an anchored log too."""
        self.newest_commit: int | None = None
        """Newest effective COMMIT by place, in the lineage or not."""
        self._heads: list[int | None] = []
        self._last_resume = -1
        self._claimed: set[Writer] = set()
        self._unreadable = False
        if anchor:
            self.first_claim = anchor.first_claim
            self.owner = Writer(anchor.commit.epoch, anchor.commit.writer)
            self._claimed.add(self.owner)
            self.add(anchor.commit)

    def __len__(self) -> int:
        """Slots read or written so far, which is also the next free one as far as known."""
        return self.base + len(self.entries)

    @property
    def max_epoch(self) -> int:
        """Highest effective epoch, 0 for none. The owner has it: ownership only moves up."""
        return self.owner.epoch if self.owner else 0

    def add(self, entry: Entry) -> bool:
        """Take in the next slot; True if its record is effective."""
        assert entry.slot == len(self), "slots are read in order"
        self._heads.append(self.head)
        effective = self._apply(entry)
        if self.base and (not effective or self._points_before(entry)):
            self.doubtful = True
        self.entries.append(entry)
        self.effective.append(effective)
        return effective

    def _apply(self, entry: Entry) -> bool:
        if isinstance(entry, Damaged):
            self.damaged.append(entry)
            self._unreadable = True
            return False
        writer = Writer(entry.epoch, entry.writer)
        if isinstance(entry, Claim):
            self._claimed.add(writer)
            if entry.epoch <= self.max_epoch:
                return False
            self.owner = writer
            self.first_claim = self.first_claim or entry
            return True
        if entry.epoch > self.max_epoch and self._unreadable:
            self.owner = writer
            self._claimed.add(writer)
        if self.owner != writer:
            if writer not in self._claimed:
                self.damaged.append(Damaged(entry.slot, "no CLAIM of its writer can be read"))
            return False
        if isinstance(entry, Resume):
            self.head = self._commit_at(entry.parent)
            # A parent damaged after it was chosen is lost again: this RESUME settled only what it stepped over.
            lost = entry.parent is not None and entry.parent not in self.parents
            self._last_resume = (entry.parent or 0) - 1 if lost else entry.slot
        else:
            self.parents[entry.slot] = self.head
            self.head = self.newest_commit = entry.slot
        return True

    def _commit_at(self, parent: int | None) -> int | None:
        """The parent itself, or what was resumed from before it if its own record can no longer be read."""
        if parent is None or parent in self.parents:
            return parent
        place = parent - self.base
        return self._heads[place] if 0 <= place < len(self._heads) else self.head

    def _points_before(self, entry: Entry) -> bool:
        return isinstance(entry, Resume) and (entry.parent is None or entry.parent < self.base)

    def commit(self, slot: int) -> Commit:
        """The COMMIT in `slot`."""
        entry = self.entries[slot - self.base]
        assert isinstance(entry, Commit)
        return entry

    def lineage(self) -> Iterator[Commit]:
        """Effective COMMITs from the head back to the start, or to the anchor."""
        slot = self.head
        while slot is not None:
            yield self.commit(slot)
            slot = self.parents[slot]

    @property
    def final(self) -> Commit | None:
        """The COMMIT that ended the run, or None. A final head stays: claimers leave a finished log alone."""
        head = None if self.head is None else self.commit(self.head)
        return head if head is not None and head.reason == "final" else None

    def damaged_since_resume(self) -> list[Damaged]:
        """Damaged slots that may hide a COMMIT newer than all that a RESUME has settled."""
        return [d for d in self.damaged if d.slot > self._last_resume]


def fold(entries: Iterable[Entry]) -> Log:
    """The whole log at once."""
    log = Log()
    for entry in entries:
        log.add(entry)
    return log


def view(log: Log) -> LogView:
    """What the operator is told."""
    last = None
    if log.head is not None:
        head = log.commit(log.head)
        last = CommitView(
            slot=head.slot,
            epoch=head.epoch,
            step=head.step,
            reason=head.reason,
            at=head.written_at,
            loss=head.loss,
            digests=head.digests,
            timings=head.timings,
        )
    return LogView(head_slot=len(log) - 1, max_epoch=log.max_epoch, last_commit=last, final=log.final is not None)


# --- trusting a store -------------------------------------------------------------------------------------------------------


class Honesty(Enum):
    """What a probe showed: two concurrent PUTs of different content to one new key, then a third."""

    HONEST = auto()
    DISHONEST = auto()
    """Conditional writes are ignored or not atomic: such a store must not be written to."""
    UNCLEAR = auto()
    """Answers got lost: probe again under another key."""


def interpret_probe(racing: Sequence[PutResult], bodies: Sequence[bytes], third: PutResult, found: bytes | None) -> Honesty:
    """Exactly one of the racing PUTs may succeed, the third never, and the winner's content is what is there."""
    winners = [place for place, result in enumerate(racing) if isinstance(result, Created)]
    if len(winners) > 1 or (winners and isinstance(third, Created)):
        return Honesty.DISHONEST
    if not winners or not isinstance(third, AlreadyExists) or found is None:
        return Honesty.UNCLEAR
    return Honesty.HONEST if found == bodies[winners[0]] else Honesty.DISHONEST


# --- reading ----------------------------------------------------------------------------------------------------------------


def foreign_claim(log: Log, spec_hash: str) -> Claim | None:
    """A CLAIM of another specification among those that were read, the oldest included: attempts of one job never differ in that."""
    claims = [log.first_claim, *log.entries]
    return next((entry for entry in claims if isinstance(entry, Claim) and entry.spec_hash != spec_hash), None)


def shortfall(length: int, min_slot: int, listed: Collection[int]) -> str | None:
    """What is wrong with a log whose first free slot is `length`, or None. Such a log must not be written to."""
    beyond = [slot for slot in listed if slot >= length]
    if beyond:
        return f"slot {length} is missing but slot {min(beyond)} exists: records were deleted"
    if length < min_slot:
        return f"the log has {length} records, the operator knows of {min_slot}: records were deleted or this is another bucket or prefix"
    return None


def listed_slots(keys: Iterable[str]) -> list[int]:
    """Slots among listed keys; other keys are none of ours."""
    return sorted(slot for slot in map(parse_slot_key, keys) if slot is not None)


def pins(log: Log) -> tuple[int, ...]:
    """Slots of the pinned COMMITs of the lineage, for the next COMMIT to name."""
    if log.head is None:
        return ()
    head = log.commit(log.head)
    return (*head.pins, head.slot) if head.pinned else head.pins


# --- claiming ---------------------------------------------------------------------------------------------------------------


class ClaimStep(Enum):
    """What the record in the slot that a CLAIM was put to means for the claimer."""

    OWNED = auto()
    """Our own CLAIM, whatever the PUT's response was."""
    STALE = auto()
    """Our epoch is used or passed: exit 12."""
    NEXT = auto()
    """Somebody of an older epoch was first: look at it, then try the next slot."""
    AGAIN = auto()
    """The slot is empty: nothing happened yet."""


def interpret_claim_slot(found: Entry | None, own: Claim) -> ClaimStep:
    """Decide by what is in the slot, never by what the PUT said.

    A damaged record is stepped over: were it a CLAIM of our epoch or a higher one, its writer stops at ours (see
    `interpret_slot`); were it a lower one, ours fences it. So damage costs at most one attempt and never blocks the log.
    """
    if found is None:
        return ClaimStep.AGAIN
    if isinstance(found, Damaged):
        return ClaimStep.NEXT
    if found.writer == own.writer:
        return ClaimStep.OWNED
    return ClaimStep.STALE if found.epoch >= own.epoch else ClaimStep.NEXT


# --- writing as the owner ---------------------------------------------------------------------------------------------------


class WriteStep(Enum):
    """What the record in the slot that a RESUME or COMMIT was put to means for its writer."""

    WRITTEN = auto()
    """It is ours, whatever the PUT's response was."""
    EARLIER = auto()
    """An earlier PUT of this process landed late: that record counts; ours goes to the next slot."""
    FENCED = auto()
    """A newer owner: exit 11."""
    VOID = auto()
    """A fenced writer's leftover: it counts for nothing, ours goes to the next slot."""
    UNREADABLE = auto()
    """It may be a CLAIM: never step over it, exit 30."""
    UNCLAIMED = auto()
    """Somebody claimed an older epoch behind our CLAIM, so nobody else can read ours: exit 30, a new attempt claims again."""
    AGAIN = auto()
    """The slot is empty: nothing happened yet."""


def interpret_slot(found: Entry | None, me: Writer, own: Resume | Commit | None) -> WriteStep:
    """Decide by what is in the slot, never by what the PUT said: 200, 412, a timeout and a 500 are all read back.

    `own` None: nothing was put there, we only look whether we still own the log.
    """
    if found is None:
        return WriteStep.AGAIN
    if isinstance(found, Damaged):
        return WriteStep.UNREADABLE
    if found.writer == me.token:
        return WriteStep.WRITTEN if _same(found, own) else WriteStep.EARLIER
    if found.epoch >= me.epoch:
        return WriteStep.FENCED
    return WriteStep.UNCLAIMED if isinstance(found, Claim) else WriteStep.VOID


def _same(found: Entry, own: Resume | Commit | None) -> bool:
    if isinstance(found, Commit) and isinstance(own, Commit):
        return found.save == own.save
    return isinstance(found, Resume) and isinstance(own, Resume) and found.parent == own.parent


# --- resuming ---------------------------------------------------------------------------------------------------------------


def resume_candidates(log: Log) -> tuple[Commit, ...]:
    """COMMITs to try, the best first. The first whose data pass every check becomes the parent."""
    return tuple(log.lineage())


def may_start_over(log: Log) -> bool:
    """True only if there never was a COMMIT that counts and none can be hidden in a damaged slot."""
    return not log.parents and not log.damaged_since_resume()


def passed_over(log: Log, parent: int | None) -> tuple[Rejected, ...]:
    """Damaged slots newer than the parent, for the RESUME's list of what it had to step over."""
    return tuple(Rejected(slot=d.slot, why=d.why) for d in log.damaged_since_resume() if parent is None or d.slot > parent)


def needs_recommit(log: Log, parent: Commit) -> bool:
    """True if an old owner that has not yet noticed the new one may still delete the parent's data: it keeps only the newest."""
    return parent.slot != log.newest_commit


def manifest_fault(commit: Commit) -> str | None:
    """What makes a COMMIT's list of files unusable, before anything is downloaded; None if nothing does."""
    home = save_prefix(commit.epoch, commit.writer, commit.step, commit.save)
    parts: dict[str, list[int]] = {}
    for file in commit.files:
        if not file.key.startswith(home) or parse_data_key(file.key) is None:
            return f"file {file.name} is outside of the commit's own folder"
        if file.size > MAX_OBJECT_BYTES:
            return f"file {file.name} has a part of {file.size} bytes, more than any writer stores"
        parts.setdefault(file.name, []).append(file.part)
    for name, numbers in parts.items():
        if numbers != list(range(len(numbers))):
            return f"parts of file {name} are not in order"
    if parts.keys() != commit.digests.keys():
        return "files and digests differ"
    return None


# --- retention --------------------------------------------------------------------------------------------------------------

MIN_KEPT = 2
"""Fewer would make one damaged object the end of a job."""


def kept(log: Log, keep_last: int) -> list[Commit]:
    """COMMITs of the lineage whose data stay: the newest `keep_last` and the pinned ones."""
    assert keep_last >= MIN_KEPT
    return [commit for place, commit in enumerate(log.lineage()) if place < keep_last or commit.pinned] + list(log.older_pins)


def knows_kept(log: Log, keep_last: int) -> bool:
    """False if the log was not read far enough back to say whose data stay."""
    return log.base == 0 or sum(1 for _ in log.lineage()) >= keep_last


def deletable(log: Log, me: Writer, data_keys: Sequence[str], keep_last: int) -> list[str]:
    """Data keys that `me` may delete. Nothing before the first own COMMIT is acknowledged and heads the log.

    First data of older COMMITs, then data that no COMMIT names and that are of epochs below one's own: their writers are fenced.
    Data of one's own epoch that no COMMIT names may be a save under way and stay; data of higher epochs are not ours to judge.
    Nothing else is ever returned: not the log, not a key that is not of our form.
    """
    if log.owner != me or log.head is None or log.commit(log.head).writer != me.token or not knows_kept(log, keep_last):
        return []
    keep = {file.key for commit in kept(log, keep_last) for file in commit.files}
    named = {file.key for slot in log.parents for file in log.commit(slot).files}
    older, unnamed = [], []
    for key in data_keys:
        parsed = parse_data_key(key)
        if parsed is None or key in keep:
            continue
        if key in named and parsed.epoch <= me.epoch:
            older.append(key)
        elif parsed.epoch < me.epoch:
            unnamed.append(key)
    return older + unnamed
