"""The checkpoint protocol under random schedules: the real steps of several writers, every fault of a store, all invariants after
every request. And the proof that the invariants bite: each safeguard removed makes a schedule fail."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spottune_contract.records import Claim, Commit, Resume
from spottune_trainer.checkpoint.lineage import Damaged, Entry, WriteStep, resume_candidates
from spottune_trainer.checkpoint.protocol import Facts, Protocol, Restored
from spottune_trainer.checkpoint.reading import WINDOW
from spottune_trainer.checkpoint.store import Created, Delete, PutResult
from spottune_trainer.checkpoint.transfer import Steps, Uploaded, list_keys
from tests.simulation.checkpoint_world import KEEP_LAST, Options, Violation, World, run_schedule
from tests.simulation.linearizability import NotLinearizable, RecordedWorld, explain
from tests.simulation.memory_store import Faults

_DAMAGED_CLAIM: dict[str, Any] = {"corruption": 1.0, "claims_only": True}
_ZOMBIES: dict[str, Any] = {"pause": 0.1, "stale": 0.4, "spawn": 0.1}


def campaign(seeds: range, options: Options | None = None) -> list[World]:
    return [run_schedule(seed, options) for seed in seeds]


def explained(seeds: range, options: Options | None = None) -> list[World]:
    """As `campaign`, and what the clients were told must be explained by one order of what they did."""
    worlds = [RecordedWorld(random.Random(seed), options or Options()) for seed in seeds]
    for seed, world in zip(seeds, worlds, strict=True):
        try:
            world.run()
            if world.explainable:
                explain(world.history)
        except (Violation, NotLinearizable) as violation:
            raise Violation(f"seed {seed}: {violation}") from violation
    return list(worlds)


def test_no_schedule_breaks_an_invariant() -> None:
    worlds = explained(range(150))
    # The schedules are worth something only if what they are about did happen in them.
    ends = [actor.ended for world in worlds for actor in world.actors]
    assert sum(len(world.acknowledged) for world in worlds) > 1000
    assert sum(world.resumes for world in worlds) > 450
    assert ends.count("Fenced") > 150
    assert ends.count("crashed") > 150
    assert ends.count("EpochStale") > 50
    assert sum(bool(world.store.corrupted) for world in worlds) > 50
    assert sum(len(world.store.deleted) for world in worlds) > 500


def test_no_schedule_breaks_an_invariant_when_only_the_end_of_the_log_is_read() -> None:
    worlds = explained(range(120), Options(window=2))
    short = [actor for world in worlds for actor in world.actors if actor.protocol.log.base]
    assert len(short) > 120


@given(st.randoms(use_true_random=False), st.sampled_from([2, WINDOW]))
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example])
def test_no_schedule_that_hypothesis_finds_breaks_an_invariant(chance: random.Random, window: int) -> None:
    World(chance, Options(turns=60, window=window, spawn=0.1, corruption=0.3)).run()


def test_a_damaged_claim_does_no_harm_when_only_the_end_of_the_log_is_read() -> None:
    campaign(range(60), Options(window=2, **_DAMAGED_CLAIM, **_ZOMBIES))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_schedule_of_twenty_thousand_breaks_an_invariant() -> None:
    for seed in range(1_000, 11_000):
        run_schedule(seed)
    for seed in range(2_000):
        run_schedule(seed, Options(**_DAMAGED_CLAIM, **_ZOMBIES))
        run_schedule(seed, Options(window=2, **_DAMAGED_CLAIM, **_ZOMBIES))
    for seed in range(20_000, 26_000):
        run_schedule(seed, Options(window=2))


def test_a_store_that_answers_success_to_the_loser_of_a_race_does_no_harm() -> None:
    campaign(range(30), Options(faults=_lying))


# --- each safeguard is load-bearing -----------------------------------------------------------------------------------------


class ParentInClaim(Protocol):
    """Chooses the parent from the log as read before the CLAIM: a commit that lands in between is lost."""

    def _read_to_end(self) -> Steps[None]:
        yield from super()._read_to_end()
        self._seen = resume_candidates(self.log)

    def resume(self, accept: Any) -> Steps[Restored | None]:
        restored = yield from self._restore(self._seen, accept, [])
        yield from self._go_on_from(restored)
        return restored


class NoReadBack(Protocol):
    """Believes a 200."""

    def _after_put(self, own: Claim | Resume | Commit, result: PutResult) -> Steps[Entry | None]:
        if isinstance(result, Created):
            return own
        return (yield from super()._after_put(own, result))


class StepsOverUnreadable(Protocol):
    """Takes a damaged record in its way for void."""

    def _take(self, found: Entry, own: Commit | Resume | None) -> WriteStep:
        if isinstance(found, Damaged):
            self.log.add(found)
            return WriteStep.VOID
        return super()._take(found, own)


class _Sweeping(Protocol):
    def _sweep(self, keep: int) -> Steps[None]:
        kept = {file.key for commit in resume_candidates(self.log)[:keep] for file in commit.files}
        for key in (yield from list_keys("data/", "")):
            named = any(file.key == key for commit in resume_candidates(self.log) for file in commit.files)
            if named and key not in kept:
                yield Delete(key)


class DeletesBeforeCommit(_Sweeping):
    """Makes room for a commit that is not acknowledged yet."""

    def seal(self, uploaded: Uploaded, facts: Facts) -> Steps[Commit]:
        yield from self._sweep(KEEP_LAST - 1)
        return (yield from super().seal(uploaded, facts))


class KeepsOne(_Sweeping):
    """K = 1: one damaged object is the end."""

    def retain(self, keep_last: int) -> Steps[int]:
        yield from self._sweep(1)
        return 0


class ForgetsRejections(Protocol):
    """Goes back without saying why."""

    def _restore(self, *arguments: Any) -> Steps[Restored | None]:
        restored = yield from super()._restore(*arguments)
        return None if restored is None else Restored(restored.commit, restored.files, ())


class IgnoresOlderClaims(Protocol):
    """Takes a CLAIM of an older epoch behind its own for void, though it proves that its own cannot be read."""

    def _take(self, found: Entry, own: Commit | Resume | None) -> WriteStep:
        if isinstance(found, Claim) and found.epoch < self.me.epoch:
            self.log.add(found)
            return WriteStep.VOID
        return super()._take(found, own)


def _lying(chance: random.Random) -> Faults:
    return Faults(lies=0.9)


def test_a_damaged_claim_at_the_worst_moment_does_no_harm() -> None:
    campaign(range(25), Options(**_DAMAGED_CLAIM, **_ZOMBIES))


@pytest.mark.parametrize(
    ("mutant", "options", "first"),
    [
        (ParentInClaim, {"corruption": 0.0}, 0),
        (NoReadBack, {"faults": _lying}, 0),
        (StepsOverUnreadable, _DAMAGED_CLAIM, 20),
        (IgnoresOlderClaims, {**_DAMAGED_CLAIM, **_ZOMBIES}, 6_190),
        (DeletesBeforeCommit, {"corruption": 0.0}, 0),
        (KeepsOne, {"corruption": 1.0}, 0),
        (ForgetsRejections, {"corruption": 1.0}, 0),
    ],
)
def test_without_a_safeguard_some_schedule_breaks_an_invariant(mutant: type[Protocol], options: dict[str, Any], first: int) -> None:
    # Rare ones start near a schedule that is known to show it, to be quick; the search goes on far beyond.
    with pytest.raises(Violation):
        campaign(range(first, first + 3_000), Options(protocol=mutant, **options))
