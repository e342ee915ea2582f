"""Reading the log: to its end, from its end, or whole. Steps as in `protocol`; what records mean is decided in `lineage`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spottune_contract.layout import slot_key
from spottune_contract.records import MAX_RECORD_BYTES, Claim, Commit, ForeignRecord, UnreadableRecord, decode
from spottune_trainer.checkpoint.errors import LogNotUnderstood, NoReadableCheckpoint
from spottune_trainer.checkpoint.lineage import Anchor, Damaged, Entry, Log, fold, listed_slots, shortfall
from spottune_trainer.checkpoint.store import Backoff, Get, GetResult, NotFound, Together, Unavailable
from spottune_trainer.checkpoint.transfer import LOOKS, Steps, fetch, list_keys

READ_AHEAD = 32
"""Records that are asked for at once."""
WINDOW = 32
"""Records that are read back from the newest known slot. A log of less than twice as many is read whole."""


def read_to_end(min_slot: int, window: int = WINDOW) -> Steps[Log]:
    """The log up to its first free slot, of which at least `min_slot` records must be there.

    Of a long log only the end is read, unless something in it is odd. Raises `NoReadableCheckpoint` for a log with a gap or without
    its end, `LogNotUnderstood` for a newer release's.
    """
    keys = yield from list_keys("log/", slot_key(min_slot - 1) if min_slot else "log/")
    listed = listed_slots(keys)
    hint = max([min_slot - 1, *listed])
    log = None
    if hint >= 2 * window:
        log = yield from _read_back(hint, window)
    log = log or Log()
    yield from _read_on(log, hint)
    if log.doubtful:
        log = yield from read_older(log)
    fault = shortfall(len(log), min_slot, listed)
    if fault:
        raise _incomplete(fault)
    return log


def read_older(log: Log) -> Steps[Log]:
    """The same log, known whole. Raises `NoReadableCheckpoint` if a record before its anchor is missing."""
    older: list[Entry] = []
    while len(older) < log.base:
        results = yield from get_slots(len(older), min(log.base, len(older) + READ_AHEAD))
        for slot, found in enumerate((yield from _look_at(results)), len(older)):
            entry = found or (yield from look_again(slot))
            if entry is None:
                raise _incomplete(f"slot {slot} is missing but slot {log.base} exists: records were deleted")
            older.append(entry)
    return fold([*older, *log.entries])


def look(slot: int, first: GetResult | None = None) -> Steps[Entry | None]:
    """What is in a slot; None if it is empty. `first` is an answer that is there already."""
    why = ""
    for turn in range(LOOKS):
        found = yield from fetch(slot_key(slot), MAX_RECORD_BYTES, fresh=turn > 0, first=first if turn == 0 else None)
        if isinstance(found, NotFound):
            return None
        try:
            return decode(found.body, slot)
        except ForeignRecord as error:
            raise LogNotUnderstood(
                f"{error}: a newer release of SpotTune wrote it; use the trainer image, or the `spottune` command, of that release"
            ) from None
        except UnreadableRecord as error:
            why = str(error).removeprefix(f"slot {slot}: ")
    return Damaged(slot, why)


def _read_on(log: Log, hint: int) -> Steps[None]:
    """From where the log is known to its first free slot; records up to slot `hint` are expected."""
    ahead: dict[int, GetResult] = {}
    while True:
        slot = len(log)
        if slot not in ahead and slot < hint:
            ahead = yield from get_slots(slot, min(hint + 1, slot + READ_AHEAD))
        found = yield from look(slot, ahead.pop(slot, None))
        if found is None and slot <= hint:
            found = yield from look_again(slot)
        if found is None:
            return
        log.add(found)


def _read_back(newest: int, window: int) -> Steps[Log | None]:
    """The log from the oldest COMMIT of the `window` slots up to `newest`; None if that part alone cannot be trusted."""
    first = newest + 1 - window
    entries = yield from _look_at((yield from get_slots(first, newest + 1)))
    start = yield from look(0)
    commit = next((entry for entry in entries if isinstance(entry, Commit)), None)
    if commit is None or not isinstance(start, Claim) or start.epoch > commit.epoch:
        return None
    pinned = yield from _pinned(commit.pins)
    if pinned is None:
        return None
    log = Log(Anchor(commit, start, pinned))
    for entry in entries[len(log) - first :]:
        if entry is None:
            return None
        log.add(entry)
    return None if log.doubtful else log


def _pinned(slots: Sequence[int]) -> Steps[tuple[Commit, ...] | None]:
    commits: list[Commit] = []
    for slot in slots:
        entry = yield from look(slot)
        if not isinstance(entry, Commit):
            return None
        commits.append(entry)
    return tuple(commits)


def get_slots(first: int, end: int) -> Steps[dict[int, GetResult]]:
    """Answers for the slots from `first` to before `end`, asked for at once."""
    results: list[GetResult] = yield Together(tuple(Get(slot_key(slot), MAX_RECORD_BYTES) for slot in range(first, end)))
    return dict(zip(range(first, end), results, strict=True))


def _look_at(results: Mapping[int, GetResult]) -> Steps[list[Entry | None]]:
    entries: list[Entry | None] = []
    for slot, result in results.items():
        entry = yield from look(slot, result)
        entries.append(entry)
    return entries


def look_again(slot: int) -> Steps[Entry | None]:
    """A slot that should be there is missing: ask again before saying so."""
    for attempt in range(LOOKS - 1):
        yield Backoff(attempt, Unavailable(f"{slot_key(slot)} should exist and was not found"))
        found = yield from look(slot, (yield Get(slot_key(slot), MAX_RECORD_BYTES, fresh=True)))
        if found is not None:
            return found
    return None


def _incomplete(fault: str) -> NoReadableCheckpoint:
    return NoReadableCheckpoint(f"{fault}; restore them from the bucket's versions, or start a new job", reason="LogIncomplete")
