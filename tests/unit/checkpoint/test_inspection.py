"""Reading a log from outside: whatever the store does meanwhile, what is there is read, and what is missing is said."""

from __future__ import annotations

import random
from typing import Any

import pytest

from spottune_contract.layout import slot_key
from spottune_contract.records import encode
from spottune_trainer.checkpoint.drive import execute
from spottune_trainer.checkpoint.errors import LogNotUnderstood
from spottune_trainer.checkpoint.inspection import Records, part_of, read_records
from spottune_trainer.checkpoint.lineage import Damaged, Entry
from spottune_trainer.checkpoint.store import Backoff, Store, Together
from spottune_trainer.checkpoint.transfer import Steps
from tests.simulation.memory_store import Faults, MemoryStore
from tests.unit.cli.logs import claim, commit, resume

LOG: list[Entry] = [claim(0, 1), resume(1, 1, None), *(commit(slot, 1, slot) for slot in range(2, 90))]


def stored(faults: Faults, seed: int = 0) -> MemoryStore:
    store = MemoryStore(random.Random(seed), faults)
    store.objects = {slot_key(entry.slot): encode(entry) for entry in LOG if not isinstance(entry, Damaged)}
    return store


def run(steps: Steps[Records], store: Store) -> Records:
    """Carry out the steps without waiting."""
    answer: Any = None
    try:
        while True:
            request = steps.send(answer)
            if isinstance(request, Together):
                answer = [execute(store, single) for single in request.requests]
            else:
                answer = None if isinstance(request, Backoff) else execute(store, request)
    except StopIteration as finished:
        records: Records = finished.value
        return records


QUIET = Faults(0, 0, 0, 0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_lost_and_garbled_answers_and_stale_listings_hide_nothing(seed: int) -> None:
    faults = Faults(lost_before=0.2, stale_list=0.7, garbled=0.2)
    assert run(read_records(), stored(faults, seed)) == Records(tuple(LOG))


def test_only_what_is_new_is_asked_for_again() -> None:
    store = stored(QUIET)
    asked: list[str] = []
    get = store.get
    store.get = lambda key, limit: (asked.append(key), get(key, limit))[1]  # type: ignore[method-assign,func-returns-value]
    assert run(read_records(LOG[:88]), store) == Records(tuple(LOG))
    assert asked == [slot_key(88), slot_key(89), slot_key(90)]


def test_a_gap_ends_the_log_and_what_lies_beyond_is_told() -> None:
    store = stored(QUIET)
    del store.objects[slot_key(40)]
    assert run(read_records(), store) == Records(tuple(LOG[:40]), tuple(range(41, 90)))


def test_a_damaged_record_keeps_its_slot() -> None:
    store = stored(QUIET)
    store.objects[slot_key(40)] += b" x"
    entries = run(read_records(), store).entries
    assert isinstance(entries[40], Damaged)
    assert [*entries[:40], *entries[41:]] == [*LOG[:40], *LOG[41:]]


def test_a_record_of_a_newer_release_is_not_read_as_damage() -> None:
    store = stored(QUIET)
    store.objects[slot_key(3)] = encode(commit(3, 1, 3).model_copy(update={"protocol": 2}))
    with pytest.raises(LogNotUnderstood, match="slot 3"):
        run(read_records(), store)


def test_progress_is_told_from_the_first_batch_to_the_last_slot() -> None:
    told: list[tuple[int, int]] = []
    run(read_records(seen=lambda done, of: told.append((done, of))), stored(QUIET))
    assert told[0] == (32, 90)
    assert told[-1] == (90, 90)


def test_a_part_of_a_commit_names_its_own_files_and_digests_only() -> None:
    whole = commit(2, 1, 5)
    part = part_of(whole, ["trainer.json"])
    assert [file.name for file in part.files] == ["trainer.json"]
    assert part.digests == {"trainer.json": whole.digests["trainer.json"]}
    assert (part.slot, part.save) == (whole.slot, whole.save)
