"""The page about phases says what the planner does."""

from __future__ import annotations

from spottune_operator.api.reasons import Phase
from spottune_operator.planner.rules import RULES
from tests.contract.phases import PAGE, render, transitions


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == render(), "run: make generate"


def test_every_rule_says_what_it_is_for() -> None:
    assert all((rule.__doc__ or "").strip() for rule in RULES)
    assert len({rule.__name__ for rule in RULES}) == len(RULES)


def test_every_phase_that_is_not_final_can_reach_a_final_one() -> None:
    """I15, and without anybody deleting the job."""
    reaches = {Phase.SUCCEEDED}
    steps = transitions()
    for _ in Phase:
        reaches |= {before for before, after in steps if after in reaches}
    assert reaches == set(Phase) - {Phase.CANCELLED}


def test_success_and_cancellation_are_final() -> None:
    for before, after in transitions():
        assert before not in (Phase.SUCCEEDED, Phase.CANCELLED), f"{before} -> {after}"
