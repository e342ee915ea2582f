"""Steps that only read, for people who look at a log from outside: no claim, no probe, nothing but GET and LIST.

A writer refuses a log that is not whole; a reader takes what is there and says what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spottune_contract.layout import slot_key
from spottune_contract.records import Commit
from spottune_trainer.checkpoint.lineage import Entry, listed_slots
from spottune_trainer.checkpoint.reading import READ_AHEAD, get_slots, look, look_again
from spottune_trainer.checkpoint.transfer import Steps, list_keys


@dataclass(frozen=True)
class Records:
    """What a log holds."""

    entries: tuple[Entry, ...]
    """Slots 0, 1, 2 … up to the first one that is missing."""
    beyond: tuple[int, ...] = ()
    """Listed slots after the first missing one: the log has a gap."""


def read_records(known: Sequence[Entry] = (), seen: Callable[[int, int], None] = lambda done, of: None) -> Steps[Records]:
    """The log to its end; `known` was read before and is not asked for again. `seen` hears of slots read and slots known of.

    Raises `LogNotUnderstood` for an intact record of a newer release.
    """
    entries = list(known)
    keys = yield from list_keys("log/", slot_key(len(entries) - 1) if entries else "log/")
    listed = listed_slots(keys)
    end = max(listed, default=-1) + 1
    while True:
        # The listing may be stale, so the first slot after it is asked for, too, until one is not there.
        wanted = range(len(entries), max(len(entries) + 1, min(end, len(entries) + READ_AHEAD)))
        answers = yield from get_slots(wanted.start, wanted.stop)
        for slot, answer in answers.items():
            entry = yield from look(slot, answer)
            if entry is None and slot < end:
                entry = yield from look_again(slot)
            if entry is None:
                return Records(tuple(entries), tuple(s for s in listed if s > slot))
            entries.append(entry)
        seen(len(entries), max(end, len(entries)))


def part_of(commit: Commit, names: Sequence[str]) -> Commit:
    """The same COMMIT as if it held these files only: to load no more than is needed."""
    return commit.model_copy(
        update={
            "files": tuple(file for file in commit.files if file.name in names),
            "digests": {name: digest for name, digest in commit.digests.items() if name in names},
        }
    )
