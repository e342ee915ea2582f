"""Each check finds what it is for, and nothing in a good log."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console

from spottune_cli import bucket
from spottune_cli.audit import CHECKS, Evidence, orphans, to_download, violations
from spottune_cli.bucket import Bucket
from spottune_cli.errors import Refusal
from spottune_cli.verify import audit
from spottune_contract.layout import data_key, slot_key
from spottune_contract.records import DataFile, canonical, encode
from spottune_trainer.checkpoint import CheckpointLog
from spottune_trainer.checkpoint.lineage import Entry
from spottune_trainer.checkpoint.store import GetResult
from tests.unit.checkpoint.stores import QuietStore, owner, state
from tests.unit.checkpoint.stores import claim as claim_log
from tests.unit.cli.logs import FILES, ORIGIN, claim, commit, damaged, evidence, history, resume, story, writer

START = [claim(0, 1), resume(1, 1, None)]


def found(facts: Evidence) -> list[tuple[str, str]]:
    return [(violation.check, violation.where.split(" (")[0]) for violation in violations(facts)]


def changed(change: Callable[[list[Entry]], object]) -> list[Entry]:
    entries = story()
    change(entries)
    return entries


def test_a_good_log_has_no_violation() -> None:
    assert found(evidence(story(), keys=("probe/0123456789abcdef", "tail/e0001-writer0001.log", slot_key(3)))) == []


@pytest.mark.parametrize(
    ("entries", "check", "where"),
    [
        (changed(lambda log: log.__setitem__(8, damaged(8))), "records_can_be_read", "slot 8"),
        ([claim(0, 2), resume(1, 2, None), commit(2, 1, 5)], "void_records_are_explained", "slot 2"),
        ([*START, commit(2, 1, 5), claim(3, 2), resume(4, 2, 3), commit(5, 2, 8)], "attempts_say_what_they_go_on_from", "slot 4"),
        ([claim(0, 1), commit(1, 1, 5)], "attempts_say_what_they_go_on_from", "slot 1"),
        (changed(lambda log: log.__setitem__(8, commit(8, 2, 9))), "steps_rise", "slot 8"),
        (changed(lambda log: log.__setitem__(8, commit(8, 2, 30, samples_seen=1))), "steps_rise", "slot 8"),
        ([*START, commit(2, 1, 5), commit(3, 1, 5, digests=dict.fromkeys(FILES, "0" * 64))], "steps_rise", "slot 3"),
        (changed(lambda log: log.__setitem__(2, commit(2, 1, 10, "imported"))), "imports_come_first", "slot 2"),
        (changed(lambda log: log.__setitem__(2, commit(2, 1, 10, origin=ORIGIN))), "imports_come_first", "slot 2"),
        (changed(lambda log: log.__setitem__(8, commit(8, 2, 30, "imported", origin=ORIGIN))), "imports_come_first", "slot 8"),
        (changed(lambda log: log.append(commit(10, 2, 61))), "nothing_counts_after_the_end", "slot 10"),
        (changed(lambda log: log.append(claim(10, 3))), "nothing_counts_after_the_end", "slot 10"),
        (changed(lambda log: log.__setitem__(8, commit(8, 2, 30, digests={"other": "0" * 64}))), "manifests_are_sound", "slot 8"),
    ],
)
def test_each_oddity_is_found_by_its_check_and_no_other(entries: list[Entry], check: str, where: str) -> None:
    assert found(evidence(entries)) == [(check, where)]


def test_a_copy_that_differs_is_found() -> None:
    entries = changed(lambda log: log.__setitem__(7, commit(7, 2, 10, "recommit", digests={"adapter.safetensors": "0" * 64})))
    assert ("copies_are_equal", "slot 7") in found(evidence(entries))


def test_a_gap_is_found_first_and_named_by_its_slot() -> None:
    assert found(evidence(story()[:4], beyond=(5, 6)))[0] == ("slots_have_no_gap", "slot 4")


@pytest.mark.parametrize(
    "key", ["notes.txt", "log/readme", "log/1.json", "data/x", "probe/", "data/e0001-writer0001/s0000010-save0002/../x"]
)
def test_a_foreign_key_is_found(key: str) -> None:
    assert found(evidence(story(), keys=(key,))) == [("keys_are_ours", key)]


def test_data_of_an_attempt_that_never_claimed_are_found_and_leftovers_of_one_that_did_are_orphans() -> None:
    never, leftover = (data_key(epoch, writer(epoch), 70, "save0070", "adapter.safetensors") for epoch in (3, 1))
    facts = evidence(story(), keys=(never, leftover))
    assert found(facts) == [("keys_are_ours", never)]
    assert leftover in orphans(facts)


@pytest.mark.parametrize("entries", [
    [claim(0, 1), resume(1, 1, None), commit(2, 1, 5), commit(3, 1, 5)],
    [claim(0, 1), resume(1, 1, None), commit(2, 1, 5, "sigterm"), claim(3, 2), resume(4, 2, 2), commit(5, 2, 5, "final", digests={})],
])  # fmt: skip
def test_the_same_state_again_or_an_end_without_a_further_step_is_no_violation(entries: list[Entry]) -> None:
    assert [check for check, _ in found(evidence(entries)) if check == "steps_rise"] == []


def test_what_damage_may_have_hidden_is_not_held_against_others() -> None:
    entries = [claim(0, 1), damaged(1), commit(2, 1, 5), damaged(3), commit(4, 2, 3), commit(5, 2, 8)]
    assert found(evidence(entries)) == [("records_can_be_read", "slot 1"), ("records_can_be_read", "slot 3")]


def test_every_violation_names_the_thing_and_a_remedy() -> None:
    facts = evidence(changed(lambda log: log.__setitem__(8, damaged(8))), beyond=(12,), keys=("notes.txt",))
    told = list(violations(facts))
    assert len(told) == 3
    assert all(violation.remedy and violation.where in str(violation) for violation in told)
    assert {violation.check for violation in told} <= {check.__name__ for check in CHECKS}


def test_kept_commits_are_downloaded_and_others_that_are_whole_too() -> None:
    must, also = to_download(history(story(), 2), None)
    assert ([c.slot for c in must], [c.slot for c in also]) == ([9, 8], [7])
    must, also = to_download(history(story(), 2), 3)
    assert ([c.slot for c in must], [c.slot for c in also]) == ([9, 8, 7], [])


# --- with a store -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store() -> QuietStore:
    """One attempt with commits of steps 10 to 40, of which the newest three have their data."""
    store = QuietStore()
    log = owner(store)
    for step in (10, 20, 30, 40):
        log.commit(state(step), step=step, samples_seen=step, reason="interval")
        log.retain()
    return store


def told(store: QuietStore, keep_last: int | None = 3, *, everything: bool = True) -> list[str]:
    said: list[str] = []
    assert audit(Bucket(store), keep_last, everything=everything, say=said.append) == sum("VIOLATION" in line for line in said)
    return [line for line in said if "VIOLATION" in line]


def key_of(store: QuietStore, step: int, name: str) -> str:
    return next(key for key in store.objects if f"/s{step:07d}-" in key and key.endswith(name))


def test_a_good_log_is_read_downloaded_and_summed_up(store: QuietStore) -> None:
    said: list[str] = []
    assert audit(Bucket(store), 3, everything=False, say=said.append) == 0
    assert said[0] == "records    6 read: 1 claims, 1 resumes, 4 commits, 0 void, 0 damaged; highest attempt 1"
    assert said[1] == "lineage    4 commits, steps 10 to 40 (head, slot 5)"
    assert said[2] == "data       3 commits, 6 objects, 36 B downloaded and hashed (keepLast 3)"


@pytest.mark.parametrize(
    "damage", [lambda body: body[:-1], lambda body: body + b"x", lambda body: bytes([body[0] ^ 1]) + body[1:], lambda body: b""]
)
@pytest.mark.parametrize("step", [20, 30, 40])
@pytest.mark.parametrize("name", ["adapter.safetensors", "cursor.json"])
def test_any_damage_of_any_kept_file_is_named(store: QuietStore, damage: Callable[[bytes], bytes], step: int, name: str) -> None:
    key = key_of(store, step, name)
    store.objects[key] = damage(store.objects[key])
    [violation] = told(store)
    assert f"slot {step // 10 + 1} (step {step}), {key}" in violation


def test_a_missing_object_is_named_and_without_all_the_audit_stops_there(store: QuietStore) -> None:
    for step in (30, 40):
        del store.objects[key_of(store, step, "cursor.json")]
    assert len(told(store)) == 2
    [violation] = told(store, everything=False)
    assert key_of(store, 40, "adapter.safetensors").rsplit("/", 1)[0] + "/cursor.json: is missing" in violation


def test_what_nobody_has_to_keep_may_be_gone(store: QuietStore) -> None:
    del store.objects[key_of(store, 20, "cursor.json")]
    assert told(store, keep_last=None) == []
    assert len(told(store, keep_last=3)) == 1


def test_data_that_the_running_job_sweeps_while_they_are_checked_are_no_violation(store: QuietStore) -> None:
    log = CheckpointLog(store, epoch=2)
    claim_log(log)
    log.resume(lambda commit, files: None)
    get = store.get

    def commit_first(key: str, limit: int) -> GetResult:
        if "/s0000020-" in key and len(log.view().last_commit.digests) and log.view().last_commit.step < 90:  # type: ignore[union-attr]
            for step in (70, 80, 90):
                log.commit(state(step), step=step, samples_seen=step, reason="interval")
                log.retain()
        return get(key, limit)

    store.get = commit_first  # type: ignore[method-assign]
    assert told(store) == []
    assert log.view().last_commit.step == 90  # type: ignore[union-attr]


@pytest.mark.parametrize("slot", range(6))
@pytest.mark.parametrize("damage", [lambda body: body[:-1], lambda body: body.replace(b'"epoch":1', b'"epoch":2'), lambda body: b"{}"])
def test_any_damaged_record_is_named(store: QuietStore, slot: int, damage: Callable[[bytes], bytes]) -> None:
    store.objects[slot_key(slot)] = damage(store.objects[slot_key(slot)])
    assert f"slot {slot} ({slot_key(slot)})" in told(store)[0]


def test_a_deleted_record_is_named(store: QuietStore) -> None:
    del store.objects[slot_key(3)]
    assert f"slot 3 ({slot_key(3)}): is missing, although slot 4 exists" in told(store)[0]


def test_the_digest_of_a_file_in_parts_is_that_of_the_whole(store: QuietStore) -> None:
    """Every part is what the record says; only the file that they make is not."""
    old = store.objects[slot_key(5)]
    record = json.loads(old)
    record["digests"]["cursor.json"] = "0" * 64
    del record["sha256"]
    record["sha256"] = hashlib.sha256(canonical(record)).hexdigest()
    store.objects[slot_key(5)] = canonical(record)
    [violation] = told(store)
    assert "the record's digest of the file is not that of its parts" in violation


def test_an_edited_record_with_a_new_hash_that_names_another_commits_file_is_named(store: QuietStore) -> None:
    facts = Bucket(store).contents("").log
    stolen = facts.commit(4).files[0]
    mine = facts.commit(5)
    swapped = mine.model_copy(update={"files": (DataFile(**stolen.model_dump()),), "digests": {stolen.name: stolen.sha256}})
    store.objects[slot_key(5)] = encode(swapped)
    assert any("outside of the commit's own folder" in violation for violation in told(store))


def test_a_prefix_without_a_log_is_refused_and_what_is_below_it_named() -> None:
    store = QuietStore()
    with pytest.raises(Refusal, match="there is no checkpoint log"):
        Bucket(store).contents("")
    store.objects["eu-1/demo/uid/log/0000000000.json"] = b"{}"
    with pytest.raises(Refusal, match="but below it: eu-1/demo/uid; add one of these"):
        Bucket(store).contents("")


def test_a_record_of_a_newer_release_is_not_judged(store: QuietStore) -> None:
    record = json.loads(store.objects[slot_key(2)])
    del record["sha256"]
    record["protocol"] = 2
    record["sha256"] = hashlib.sha256(canonical(record)).hexdigest()
    store.objects[slot_key(2)] = canonical(record)
    with pytest.raises(
        Refusal, match="a newer release of SpotTune wrote it; use the trainer image, or the `spottune` command, of that release"
    ) as refusal:
        told(store)
    assert refusal.value.code == 2


def test_nothing_is_written(store: QuietStore) -> None:
    puts, objects = list(store.puts), dict(store.objects)
    told(store)
    assert (store.puts, store.objects) == (puts, objects)


@pytest.mark.parametrize(("terminal", "after", "shown"), [(True, 0.0, True), (True, 3600.0, False), (False, 0.0, False)])
def test_a_bar_is_shown_on_a_terminal_once_it_takes_long(
    store: QuietStore, monkeypatch: pytest.MonkeyPatch, terminal: bool, after: float, shown: bool
) -> None:
    monkeypatch.setattr(bucket, "SHOW_AFTER_SECONDS", after)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    audit(Bucket(store, console), 3, everything=True, say=lambda line: None)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("checking data" in written, "reading the log" in written) == (shown, shown)
