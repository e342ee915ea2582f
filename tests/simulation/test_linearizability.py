"""The check of histories checked: histories that one order explains, histories that none does, and safeguards whose loss it sees alone."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from spottune_trainer.checkpoint.protocol import Protocol
from tests.simulation.checkpoint_world import Options, Verdict, Violation
from tests.simulation.linearizability import Answer, History, NotLinearizable, Operation, RecordedWorld, Saved, explain
from tests.simulation.memory_store import Faults
from tests.simulation.test_checkpoint_log import NoReadBack, ParentInClaim

OWNED, STALE, FINAL, ACKNOWLEDGED, FENCED = map(Answer, ("owned", "stale", "final", "acknowledged", "fenced"))
A, B, C = Saved("a", 1), Saved("b", 2), Saved("c", 3)


def resumed(parent: str | None, *rejected: str) -> Answer:
    return Answer("resumed", parent, frozenset(rejected))


class Client:
    """One process of one epoch, for histories written by hand. Without an answer, an operation stays open."""

    def __init__(self, history: History, epoch: int, writer: str = "w") -> None:
        self.history, self.epoch, self.writer = history, epoch, f"{writer}{epoch}"

    def begin(self, kind: str, saved: Saved | None = None) -> int:
        return self.history.begin(Operation(kind, self.epoch, self.writer, saved))

    def ask(self, kind: str, told: Answer, saved: Saved | None = None) -> None:
        self.history.answer(self.begin(kind, saved), told)

    def start(self, parent: str | None = None, *rejected: str) -> Client:
        self.ask("claim", OWNED)
        self.ask("resume", resumed(parent, *rejected))
        return self


@pytest.fixture
def history() -> History:
    return History()


def refused(history: History) -> bool:
    try:
        explain(history)
    except NotLinearizable:
        return True
    return False


def test_one_attempt_after_the_other_is_explained(history: History) -> None:
    first = Client(history, 1).start()
    first.ask("commit", ACKNOWLEDGED, A)
    second = Client(history, 2).start("a")
    first.ask("commit", FENCED, B)
    second.ask("commit", ACKNOWLEDGED, C)
    assert explain(history) == 1


def test_an_acknowledged_commit_that_a_later_resume_does_not_know_is_refused(history: History) -> None:
    Client(history, 1).start().ask("commit", ACKNOWLEDGED, A)
    Client(history, 2).start(None)
    assert refused(history)


def test_a_resume_from_an_older_commit_is_refused(history: History) -> None:
    first = Client(history, 1).start()
    first.ask("commit", ACKNOWLEDGED, A)
    first.ask("commit", ACKNOWLEDGED, B)
    Client(history, 2).start("a")
    assert refused(history)


def test_a_commit_without_an_answer_may_have_happened_or_not(history: History) -> None:
    Client(history, 1).start().begin("commit", A)
    assert explain(history) == 1
    second = Client(history, 2)
    second.ask("claim", OWNED)
    assert explain(history) == 2
    second.ask("resume", resumed("a"))
    assert explain(history) == 1


def test_a_commit_without_an_answer_cannot_happen_after_the_next_claim(history: History) -> None:
    Client(history, 1).start().begin("commit", A)
    second = Client(history, 2).start(None)
    second.ask("rollback", resumed("a"))
    assert refused(history)


def test_a_commit_without_an_answer_may_happen_while_its_writer_goes_on(history: History) -> None:
    first = Client(history, 1).start()
    first.begin("commit", A)
    first.ask("commit", ACKNOWLEDGED, B)
    second = Client(history, 2).start("b")
    second.ask("rollback", resumed("a", "b"))
    assert explain(history) == 1


def test_a_late_claim_may_take_over_at_any_later_time(history: History) -> None:
    Client(history, 2).begin("claim")
    first = Client(history, 1).start()
    first.ask("commit", ACKNOWLEDGED, A)
    first.ask("commit", FENCED, B)
    explain(history)


def test_being_fenced_by_nobody_is_refused(history: History) -> None:
    Client(history, 1).start().ask("commit", FENCED, A)
    assert refused(history)


def test_an_acknowledgement_that_begins_after_a_newer_claim_was_told_is_refused(history: History) -> None:
    first = Client(history, 1).start()
    Client(history, 2).ask("claim", OWNED)
    first.ask("commit", ACKNOWLEDGED, A)
    assert refused(history)


def test_an_acknowledgement_that_overlaps_with_a_newer_claim_is_explained(history: History) -> None:
    first = Client(history, 1).start()
    under_way = first.begin("commit", A)
    second = Client(history, 2)
    second.ask("claim", OWNED)
    history.answer(under_way, ACKNOWLEDGED)
    second.ask("resume", resumed("a"))
    assert explain(history) == 1


def test_two_processes_of_one_epoch_cannot_both_own(history: History) -> None:
    Client(history, 1, "w").ask("claim", OWNED)
    Client(history, 1, "v").ask("claim", STALE)
    explain(history)
    Client(history, 1, "u").ask("claim", OWNED)
    assert refused(history)


def test_a_finished_log_is_claimed_by_nobody(history: History) -> None:
    Client(history, 1).start().ask("commit", ACKNOWLEDGED, Saved("end", 9, final=True))
    Client(history, 2).ask("claim", FINAL)
    explain(history)
    Client(history, 3).ask("claim", OWNED)
    assert refused(history)


def test_a_step_that_goes_back_is_refused(history: History) -> None:
    first = Client(history, 1).start()
    first.ask("commit", ACKNOWLEDGED, B)
    first.ask("commit", ACKNOWLEDGED, A)
    assert refused(history)


def test_a_damaged_commit_may_be_stepped_over_only_if_it_is_said(history: History) -> None:
    first = Client(history, 1).start()
    first.ask("commit", ACKNOWLEDGED, A)
    first.ask("commit", ACKNOWLEDGED, B)
    history.damage("b")
    Client(history, 2).start("a", "b")
    explain(history)
    Client(history, 3).start("a")
    explain(history)
    silent = History()
    first = Client(silent, 1).start()
    first.ask("commit", ACKNOWLEDGED, A)
    first.ask("commit", ACKNOWLEDGED, B)
    silent.damage("b")
    Client(silent, 2).start("a")
    assert refused(silent)


def test_a_whole_commit_must_not_be_stepped_over(history: History) -> None:
    first = Client(history, 1).start()
    first.ask("commit", ACKNOWLEDGED, A)
    first.ask("commit", ACKNOWLEDGED, B)
    Client(history, 2).start("a", "b")
    assert refused(history)


# --- over the simulated schedules --------------------------------------------------------------------------------------------


class Unjudged(RecordedWorld):
    """A schedule that nobody looks at while it runs: only its history is left to judge by."""

    def _check(self) -> None:
        self.before = Verdict()

    def _acknowledge(self, commit: Any) -> None:
        self.acknowledged.append(commit)

    def _finish(self) -> None:
        """No last attempt: its judge would look into the store."""


def _lying(_: object) -> Faults:
    return Faults(lies=0.9)


def _unjudged(seed: int, options: Options) -> History:
    world = Unjudged(random.Random(seed), options)
    # What happened up to a violation is a history, too.
    with contextlib.suppress(Violation):
        world.run()
    return world.history


@pytest.mark.parametrize(
    ("mutant", "options"),
    [(ParentInClaim, {}), (NoReadBack, {"faults": _lying})],
)
def test_without_a_safeguard_some_history_has_no_explanation(mutant: type[Protocol], options: dict[str, Any]) -> None:
    assert any(refused(_unjudged(seed, Options(protocol=mutant, corruption=0.0, **options))) for seed in range(1_000))


def test_with_all_safeguards_the_same_histories_are_explained() -> None:
    for seed in range(20):
        explain(_unjudged(seed, Options(corruption=0.0)))
        explain(_unjudged(seed, Options(corruption=0.0, faults=_lying)))
