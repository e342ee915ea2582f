"""The whole planner as one truth table: in every combination of the named axes the table, the rule and the promises agree."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spottune_operator.api.reasons import Phase
from spottune_operator.api.v1alpha1 import STATUS_LIMIT, FineTuneJobStatus
from spottune_operator.planner.plan import plan
from spottune_operator.planner.rules import RULES
from spottune_operator.planner.statuses import size
from spottune_operator.planner.types import AskCheckpoint, CreatePod, DeletePod, Observed, Plan
from tests.fixtures.planner_table import AXES, Case, answer, build, cases, rows, usual

EFFECTS: dict[type | None, str] = {None: "", CreatePod: "create", DeletePod: "delete", AskCheckpoint: "ask"}


def expected(case: Case, seen: Observed) -> tuple[str, str, str, str]:
    """The table's line, and what it says: rule, phase, effect."""
    row = answer(case)
    phase = seen.status.phase.value if row.phase == "same" else row.phase
    effect = row.effect
    if effect == "sweep":
        effect = "delete" if any(not p.deleting for p in seen.pods) else ""
    return row.text, row.rule, phase, effect


def effect_of(found: Plan) -> str:
    return "look live" if found.look_live else EFFECTS[type(found.action) if found.action is not None else None]


def keeps_the_promises(seen: Observed, found: Plan) -> None:
    before, after, action = seen.status, found.status, found.action
    assert size(after) <= STATUS_LIMIT, "I16"
    assert after.attempt >= before.attempt, "I2"
    assert before.accounted <= after.accounted <= after.attempt, "an end is recorded once, and only of what began"
    assert found.rule in ("spec_was_corrected", "retry_is_wanted") or not before.phase.terminal or after.phase is before.phase, (
        "what is over is over"
    )
    assert after.interruptions + after.failures <= before.interruptions + before.failures + 1, "I13: counted twice"
    if found.rule == "retry_is_wanted":
        assert (after.failures, after.no_progress, after.active_seconds) == (0, 0, 0.0)
    else:
        assert after.failures == before.failures or found.rule == "pod_has_ended", "I13: only an end spends a budget"
    assert found.requeue_after is None or found.requeue_after > 0
    if isinstance(action, CreatePod):
        assert not seen.deleting, "I10"
        assert seen.spec is not None
        assert not seen.spec.suspend
        assert not seen.spec.cancel
        assert after.attempt == action.epoch, "I3"
        assert after.accounted == action.epoch - 1
        assert not any(p.state.live and p.epoch < action.epoch for p in seen.pods), "I4"
        assert not after.phase.terminal
    if isinstance(action, DeletePod):
        assert action.grace_seconds >= 1
        assert any((p.name, p.uid) == (action.name, action.uid) and not p.deleting for p in seen.pods), "deletes what is there, once"
    if found.look_live:
        assert not seen.live
        assert after == before
    if after == before:
        assert not found.events, "an event without a transition would be told again and again"


def check(case: Case) -> None:
    seen = build(case)
    found = plan(seen)
    line, *said = expected(case, seen)
    assert [found.rule, found.status.phase.value, effect_of(found)] == said, f"{case}\n{line}"
    keeps_the_promises(seen, found)


@pytest.mark.parametrize("record", AXES["record"])
def test_every_combination_is_answered_as_the_table_says(record: str) -> None:
    for case in cases():
        if case["record"] == record:
            check(case)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_whole_product_of_the_axes_is_answered_as_the_table_says() -> None:
    for case in cases(whole=True):
        check(case)


def test_every_line_of_the_table_answers_some_combination_and_every_rule_has_one() -> None:
    """With the agreement above: every rule is reached."""
    needed = {answer(case).text for case in cases()}
    assert [row.text for row in rows() if row.text not in needed] == []
    assert {row.rule for row in rows()} == {rule.__name__ for rule in RULES}


def test_with_nothing_changing_every_combination_comes_to_rest() -> None:
    """I11: decisions without a side effect settle in a few looks, and then nothing is written."""
    for case in list(cases())[::8]:
        seen = replace(build(case), live=True)
        for _ in range(6):
            found = plan(seen)
            if found.action is not None or found.status == seen.status:
                break
            seen = replace(seen, status=found.status)
        else:
            raise AssertionError(f"no rest: {case}: {found.rule}")


def test_what_is_written_can_be_read_back() -> None:
    for case in list(cases())[::17]:
        after = plan(build(case)).status
        assert FineTuneJobStatus.parse(after.document()) == after


def test_every_phase_is_some_record_of_the_table() -> None:
    assert {build(usual(record=record)).status.phase for record in AXES["record"]} == set(Phase)
