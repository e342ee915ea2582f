"""What an interruption took: whatever is heard, in whatever order it is heard, and told once when useful work is done again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from spottune_contract.progress import LogView
from spottune_operator.api.reasons import Phase, Reason
from spottune_operator.api.v1alpha1 import AttemptStatus, FineTuneJobStatus, InterruptionStatus
from spottune_operator.metrics import Metrics
from spottune_operator.planner import ledger
from spottune_operator.planner.plan import plan
from spottune_operator.planner.statuses import current_attempt
from spottune_operator.planner.types import Notice
from tests.fixtures.observations import EPOCH, NOW, POOL, ended, log, observed, pod, progress, status

RAN = AttemptStatus(epoch=EPOCH, reason=Reason.ATTEMPT_STARTED, pool=POOL, running_at="2027-01-15T07:59:00Z", claimed=True, step_to=30)
NOTICE = Notice("n1", "Interruption", "sqs", deadline=NOW + 118, announced_at=NOW - 2, heard_at=NOW - 1)
TIMINGS = {"notice_to_snapshot": 0.5, "snapshot": 0.25, "notice_to_commit": 2.0}


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def commit_for_the_end(reason: str = "notice", *, durable: float = NOW + 2.5, max_epoch: int = EPOCH) -> LogView:
    """Step 33, committed for the end at `durable`."""
    view = log(head=9, commit_epoch=EPOCH, step=33, timings=TIMINGS, at=stamp(durable), max_epoch=max_epoch)
    assert view.last_commit is not None
    return view.model_copy(update={"last_commit": view.last_commit.model_copy(update={"reason": reason})})


def points(entry: AttemptStatus) -> dict[str, float]:
    assert entry.interruption is not None
    return {name: getattr(entry.interruption, name) for name in ledger.POINTS if getattr(entry.interruption, name) is not None}


def attempt(after: FineTuneJobStatus, epoch: int = EPOCH) -> AttemptStatus:
    return next(a for a in after.attempts if a.epoch == epoch)


def after_notice_and_end(**word: Any) -> FineTuneJobStatus:
    """Attempt 3 got a notice by SQS, committed, and ended four seconds later."""
    draining = plan(observed(pod(progress=progress()), status=status(attempts=(RAN,)), notices=(NOTICE,))).status
    end = ended(10, log=commit_for_the_end(), **word)
    return plan(observed(replace(end, ended_at=NOW + 4), status=draining, now=NOW + 5)).status


def successor(before: FineTuneJobStatus, *, at: float = NOW + 40, **report: Any) -> FineTuneJobStatus:
    """Attempt 4 runs and has done its first step at `at`."""
    values: dict[str, Any] = {"log": log(max_epoch=4), "loaded_at": at - 3, "first_step_at": at, "resumed_from_step": 28, "step": 29}
    running = pod(epoch=4, progress=progress(epoch=4, **(values | report)), placed_at=NOW + 20, running_at=NOW + 22)
    entry = AttemptStatus(epoch=4, reason=Reason.ATTEMPT_STARTED, pool=POOL)
    following = before.model_copy(update={"attempt": 4, "pod_uid": "pod-4", "phase": Phase.RUNNING, "attempts": (*before.attempts, entry)})
    return plan(observed(running, status=following, now=NOW + 45)).status


def test_of_a_notice_every_point_is_known_from_its_own_time_on() -> None:
    entry = current_attempt(after_notice_and_end())
    assert entry.interruption is not None
    assert (entry.interruption.at, entry.interruption.source, entry.interruption.heard) == (NOW - 2, "sqs", {"sqs": 1.0})
    assert points(entry) == {"signal": 2.5, "step_end": 3.0, "snapshot": 3.25, "durable": 4.5, "gone": 6.0}


def test_the_trainers_own_word_counts_as_a_source_and_may_be_the_first() -> None:
    entry = current_attempt(after_notice_and_end(notice_at=NOW - 3, notice_source="imds-spot"))
    assert entry.interruption is not None
    assert (entry.interruption.at, entry.interruption.source) == (NOW - 3, "imds-spot")
    assert entry.interruption.heard == {"sqs": 2.0, "imds-spot": 0.0}
    assert points(entry) == {"signal": 0.0, "step_end": 4.0, "snapshot": 4.25, "durable": 5.5, "gone": 7.0}


def test_when_the_next_attempt_has_done_a_step_the_ledger_is_complete_and_told_once() -> None:
    before = after_notice_and_end()
    entry = AttemptStatus(epoch=4, reason=Reason.ATTEMPT_STARTED, pool=POOL)
    following = before.model_copy(update={"attempt": 4, "pod_uid": "pod-4", "phase": Phase.RUNNING, "attempts": (*before.attempts, entry)})
    report = progress(epoch=4, log=log(max_epoch=4), loaded_at=NOW + 37, first_step_at=NOW + 40, resumed_from_step=33, step=34)
    running = pod(epoch=4, progress=report, placed_at=NOW + 20, running_at=NOW + 22)
    answer = plan(observed(running, status=following, now=NOW + 45))
    whole = points(attempt(answer.status))
    assert (whole["placed"], whole["started"], whole["loaded"], whole["first_step"]) == (22.0, 24.0, 39.0, 42.0)
    (event,) = answer.events
    assert event.reason is Reason.RESUMED
    assert event.message == (
        "Attempt 4 does useful work again, after the notice (sqs): trainer told 2.5 s, state committed 4.5 s, pod gone 6.0 s, "
        "new node 22.0 s, model loaded 39.0 s, first step 42.0 s. 0 steps had to be done again."
    )
    again = plan(observed(running, status=answer.status, now=NOW + 46))
    assert (again.status, again.events) == (answer.status, ())


def test_without_notice_it_begins_when_the_loss_is_seen_and_tells_what_was_done_again() -> None:
    vanished = plan(observed(status=status(attempts=(RAN,)))).status
    entry = attempt(successor(vanished))
    assert entry.interruption is not None
    assert (entry.interruption.at, entry.interruption.source, entry.interruption.heard) == (NOW, "none", {})
    assert points(entry) == {"gone": 0.0, "placed": 20.0, "started": 22.0, "loaded": 37.0, "first_step": 40.0}
    assert entry.interruption.steps_redone == 2


def test_what_a_vanished_pod_had_committed_is_known_from_the_next_one() -> None:
    vanished = plan(observed(status=status(attempts=(RAN,)))).status
    entry = attempt(successor(vanished, log=commit_for_the_end("sigterm", durable=NOW - 1, max_epoch=4)))
    assert entry.interruption is not None
    assert (entry.interruption.at, entry.interruption.source) == (NOW - 3, "sigterm")
    assert points(entry)["durable"] == 2.0
    assert points(entry)["gone"] == 3.0


def test_attempts_that_were_taken_away_before_a_step_wait_with_those_before_them() -> None:
    first = after_notice_and_end()
    second = AttemptStatus(
        epoch=4, reason=Reason.POD_VANISHED, pool=POOL, interruption=InterruptionStatus(at=NOW + 30, source="none", gone=0.0)
    )
    before = first.model_copy(update={"attempt": 5, "accounted": 4, "pod_uid": "pod-5", "attempts": (*first.attempts, second)})
    report = progress(epoch=5, log=log(max_epoch=5), first_step_at=NOW + 60, resumed_from_step=33)
    after = plan(observed(pod(epoch=5, progress=report), status=before, now=NOW + 61)).status
    assert [points(attempt(after, epoch))["first_step"] for epoch in (3, 4)] == [62.0, 30.0]
    assert len(ledger.newly_over(before, after)) == 2


@pytest.mark.parametrize("wish", [Reason.SUSPENDED, Reason.CANCELLED, Reason.MAX_DURATION])
def test_what_the_user_wanted_is_no_interruption(wish: Reason) -> None:
    before = status(attempts=(RAN.model_copy(update={"reason": wish}),))
    after = plan(observed(ended(10, log=commit_for_the_end("sigterm")), status=before)).status
    assert current_attempt(after).interruption is None


@pytest.mark.parametrize("code", [0, 1, 20])
def test_an_end_that_is_no_interruption_has_no_ledger(code: int) -> None:
    after = plan(observed(ended(code, log=log()), status=status(attempts=(RAN,)))).status
    assert current_attempt(after).interruption is None


def test_a_pod_that_never_ran_has_no_ledger() -> None:
    entry = RAN.model_copy(update={"running_at": "", "claimed": False})
    after = plan(observed(status=status(attempts=(entry,)))).status
    assert current_attempt(after).interruption is None


def test_a_point_before_the_beginning_is_shown_as_its_beginning() -> None:
    """The node's clock is behind ours."""
    entry = attempt(successor(after_notice_and_end(), at=NOW - 30))
    assert points(entry)["first_step"] == 0.0


def test_the_metrics_have_every_point_and_the_steps() -> None:
    metrics = Metrics()
    after = successor(plan(observed(status=status(attempts=(RAN,)))).status)
    for over in ledger.newly_over(status(), after):
        metrics.interruption_over(over)
    text = metrics.exposition().decode()
    assert 'spottune_interruption_seconds_sum{point="first_step"} 40.0' in text
    assert "spottune_interruption_steps_redone_sum 2.0" in text
    assert 'point="durable"' not in text


def test_a_recommendation_alone_is_no_beginning() -> None:
    noticed = status(attempts=(RAN,), notice={"epoch": EPOCH, "kind": "Rebalance", "source": "sqs", "node": "n1", "heardAt": NOW - 500})
    entry = current_attempt(plan(observed(status=noticed)).status)
    assert entry.interruption is not None
    assert (entry.interruption.at, entry.interruption.source) == (NOW, "none")


def test_a_running_pod_with_an_open_ledger_before_its_first_step_changes_nothing() -> None:
    before = after_notice_and_end()
    waiting = successor(before, first_step_at=0.0, loaded_at=NOW + 37)
    assert "placed" not in points(attempt(waiting))
