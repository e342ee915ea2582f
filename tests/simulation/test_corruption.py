"""Damage to every object of a log, tens of thousands of times: no damaged state is loaded, the newest good commit is used, what was
rejected is recorded, and where nothing is left the attempt ends with exit 23 instead of starting over."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from spottune_contract.exitcodes import ExitCode
from spottune_contract.layout import parse_slot_key, slot_key
from spottune_contract.records import Resume, decode
from spottune_trainer.checkpoint import CheckpointError, NoReadableCheckpoint, Restored
from spottune_trainer.checkpoint.protocol import Protocol
from tests.simulation.checkpoint_world import intact, judge
from tests.simulation.damage import ACCIDENTS, FORGERIES, LOSSES, Damage, Scene
from tests.simulation.memory_store import MemoryStore
from tests.simulation.saved_job import LIVES, Objects, SavedJob, claiming, drive, quiet_store

FEW, MANY = 20, 560
"""Cases of each kind of damage by `make test` and by `make test-long`."""


@functools.cache
def lives(kind: str) -> tuple[SavedJob, SavedJob, SavedJob]:
    """The job, its twin and a stranger."""
    live = LIVES[kind]
    return live(1), live(2), live(3, "b" * 64)


@dataclass
class Case:
    """One damaged log, and how the next attempt fared with it."""

    job: SavedJob
    store: MemoryStore
    protocol: Protocol
    what: str
    before: Objects = field(init=False)
    restored: Restored | None = None
    final: bool = False
    error: CheckpointError | None = None

    def attempt(self) -> Case:
        self.before = dict(self.store.objects)
        try:
            self.final = drive(self.store, claiming(self.protocol, self.job.run)).final is not None
            if not self.final:
                self.restored = drive(self.store, self.protocol.resume(self.job.run.accept))
        except CheckpointError as error:
            self.error = error
        return self

    @property
    def ending(self) -> str:
        if self.restored is not None:
            return "an older commit" if self.restored.rejected else "the newest commit"
        return "final" if self.final else type(self.error).__name__

    def resume_record(self) -> Resume:
        """The RESUME that this attempt wrote."""
        own = [self.protocol.log.entries[slot] for slot in range(len(self.protocol.log))]
        record = next(r for r in reversed(own) if isinstance(r, Resume) and r.writer == self.protocol.me.token)
        stored = decode(self.store.objects[slot_key(record.slot)], record.slot)
        assert stored == record
        return record


def damaged(kind: str, name: str, damage: Damage, seed: int) -> Case:
    """The case of one seed; the same seed is the same case."""
    chance = random.Random(f"{kind} {name} {seed}")
    job, twin, stranger = lives(kind)
    original = job.store.objects
    scene = Scene(chance, dict(original), twin.store.objects, stranger.store.objects)
    what: object = None
    for _ in range(100):
        what = damage(scene)
        if scene.objects != original:
            break
    assert scene.objects != original, f"{name} {seed} damages nothing"
    store = quiet_store(scene.objects)
    store.corrupted = {key for key in original.keys() | scene.objects.keys() if original.get(key) != scene.objects.get(key)}
    known = sum(key.startswith("log/") for key in original)
    # Epochs above all that a forged record may claim.
    return Case(job, store, job.process(50, min_slot=known), f"{kind} life, {name} {seed}, {what or sorted(store.corrupted)}").attempt()


def cases(damages: dict[str, Damage], count: int) -> Iterator[tuple[str, Case]]:
    for name, damage in damages.items():
        for seed in range(count):
            yield name, damaged("short" if seed % 4 == 3 else "long", name, damage, seed)


# --- what must hold ---------------------------------------------------------------------------------------------------------


def check_genuine(case: Case) -> None:
    """Whatever was loaded is, to the bit, a state that this job has committed at that step."""
    assert case.restored is not None
    commit, files = case.restored.commit, {name: bytes(content) for name, content in case.restored.files.items()}
    assert any(files == state for state in case.job.states.values()), case.what
    case.job.run.accept(commit, files)


def check_accident(case: Case) -> None:
    """The newest commit that is whole is used and everything newer is named; without one the attempt ends with exit 23."""
    before = quiet_store(case.before)
    before.corrupted = case.store.corrupted
    verdict = judge(before)
    good = [c for c in verdict.lineage if intact(before, c) and slot_key(c.slot) not in before.corrupted]
    if not good:
        check_refused(case)
        return
    assert case.restored is not None, f"{case.what}: {case.error}"
    check_genuine(case)
    assert case.restored.commit.slot == good[-1].slot, case.what
    assert {n: bytes(b) for n, b in case.restored.files.items()} == case.job.states[good[-1].slot], case.what
    check_named(case, [c.slot for c in verdict.lineage if c.slot > good[-1].slot])


def check_named(case: Case, stepped_over: list[int]) -> None:
    assert case.restored is not None
    record = case.resume_record()
    assert (record.parent, record.rejected) == (case.restored.commit.slot, case.restored.rejected), case.what
    named = {rejected.slot for rejected in record.rejected}
    assert named >= set(stepped_over), f"{case.what}: {named} named, not {stepped_over}"
    assert all(rejected.why for rejected in record.rejected), case.what


def check_refused(case: Case) -> None:
    assert isinstance(case.error, NoReadableCheckpoint), f"{case.what}: {case.ending} {case.error}"
    assert case.error.exit_code is ExitCode.NO_READABLE_CHECKPOINT
    check_never_over(case)


def check_never_over(case: Case) -> None:
    """This job has commits: nothing may make an attempt start at step 0."""
    assert case.restored is not None or case.final or case.error is not None, f"{case.what}: silently started over"
    new = {key: body for key, body in case.store.objects.items() if key not in case.before}
    for key, body in new.items():
        slot = parse_slot_key(key)
        record = decode(body, slot) if slot is not None else None
        assert not (isinstance(record, Resume) and record.parent is None), f"{case.what}: a RESUME from the start"


def check_usable(case: Case) -> None:
    """The attempt goes on, and the one after it resumes from what it committed."""
    files = case.job.states[max(case.job.states)]
    assert case.restored is not None
    commit = case.restored.commit
    steps = case.protocol.upload(files, commit.step)
    from spottune_trainer.checkpoint.protocol import Facts

    made = drive(case.store, case.protocol.seal(drive(case.store, steps), Facts(commit.step, commit.samples_seen, "interval")))
    after = Case(case.job, case.store, case.job.process(60), case.what)
    drive(after.store, claiming(after.protocol, after.job.run))
    restored = drive(after.store, after.protocol.resume(lambda *_: None))
    assert restored is not None
    assert restored.commit.slot == made.slot, case.what


# --- the campaigns ----------------------------------------------------------------------------------------------------------


def accidents(count: int) -> Counter[str]:
    endings: Counter[str] = Counter()
    for number, (_, case) in enumerate(cases(ACCIDENTS, count)):
        check_accident(case)
        if number % 10 == 0 and case.restored is not None:
            check_usable(case)
        endings[case.ending] += 1
    return endings


def losses(count: int) -> Counter[str]:
    endings: Counter[str] = Counter()
    for _, case in cases(LOSSES, count):
        check_refused(case)
        assert case.error is not None
        assert case.error.reason == "LogIncomplete", case.what
        assert case.store.objects == case.before, f"{case.what}: something was written"
        endings[case.ending] += 1
    return endings


def forgeries(count: int) -> Counter[str]:
    endings: Counter[str] = Counter()
    for _, case in cases(FORGERIES, count):
        check_never_over(case)
        if case.restored is not None:
            check_genuine(case)
        endings[case.ending] += 1
    return endings


@pytest.mark.parametrize("life", ["long", "short"])
def test_what_is_damaged_here_is_whole_before(life: str) -> None:
    job, _, _ = lives(life)
    case = Case(job, quiet_store(job.store.objects), job.process(50), life).attempt()
    assert case.ending == "the newest commit"
    check_genuine(case)
    check_usable(case)


def test_of_a_few_hundred_damaged_logs_no_damaged_state_is_loaded() -> None:
    endings = accidents(FEW)
    # The campaign is worth something only if all three ends are met.
    assert endings.keys() == {"the newest commit", "an older commit", "NoReadableCheckpoint"}, endings


def test_a_log_that_lost_records_is_neither_resumed_nor_written_to() -> None:
    assert losses(FEW).keys() == {"NoReadableCheckpoint"}


def test_records_with_a_right_hash_that_this_job_did_not_write_never_bring_in_another_state() -> None:
    endings = forgeries(FEW)
    assert {"the newest commit", "an older commit", "NoReadableCheckpoint"} <= endings.keys(), endings


@pytest.mark.long
def test_of_ten_thousand_damaged_logs_no_damaged_state_is_loaded() -> None:
    endings = {"accidents": accidents(MANY), "losses": losses(MANY), "forgeries": forgeries(MANY)}
    total = sum(sum(counter.values()) for counter in endings.values())
    print(f"\n{total} cases, {MANY} of each of {len(ACCIDENTS) + len(LOSSES) + len(FORGERIES)} kinds: {endings}")
    assert total >= 10_000
