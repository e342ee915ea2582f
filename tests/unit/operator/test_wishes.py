"""What the user wants instead of a running trainer: suspended, cancelled, out of time; and tried again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from spottune_contract.exitcodes import Verdict
from spottune_operator.api.reasons import ConditionType, Phase, Reason
from spottune_operator.api.v1alpha1 import AttemptStatus
from spottune_operator.planner.plan import plan
from spottune_operator.planner.statuses import change, condition, current_attempt
from spottune_operator.planner.types import CreatePod, DeletePod, PodState, Settings
from tests.fixtures.observations import EPOCH, NOW, POOL, ended, log, observed, outcome, pod, progress, resting, spec, status
from tests.fixtures.planner_table import RECORDS

# The spec that says so, the reason, and the phase that it leads to.
WISHES: dict[str, tuple[dict[str, Any], Reason, Phase]] = {
    "suspended": ({"suspend": True}, Reason.SUSPENDED, Phase.SUSPENDED),
    "cancelled": ({"cancel": True}, Reason.CANCELLED, Phase.CANCELLED),
    "out of time": ({"maxDuration": "1h"}, Reason.MAX_DURATION, Phase.FAILED),
    "cancelled while suspended": ({"cancel": True, "suspend": True}, Reason.CANCELLED, Phase.CANCELLED),
    "suspended and out of time": ({"maxDuration": "1h", "suspend": True}, Reason.SUSPENDED, Phase.SUSPENDED),
}
LONG_ACTIVE = {"active_seconds": 3600.0}
WITHOUT_TRAINER = RECORDS | {"never seen": status(pod_uid="")}


@pytest.mark.parametrize("wish", WISHES)
def test_a_trainer_that_is_not_wanted_commits_and_ends_and_no_other_follows(wish: str) -> None:
    wanted, reason, phase = WISHES[wish]
    job: dict[str, Any] = {"spec": spec(**wanted)}
    asked = plan(observed(pod(progress=progress()), status=status(**LONG_ACTIVE), **job))
    assert outcome(asked) == ("trainer_is_not_wanted", Phase.DRAINING, DeletePod)
    assert isinstance(asked.action, DeletePod)
    assert asked.action.grace_seconds == Settings().pod_grace
    assert [event.reason for event in asked.events] == [reason]
    going = plan(observed(pod(PodState.TERMINATING), status=asked.status, **job))
    assert outcome(going) == ("pod_is_going", Phase.DRAINING, None)
    accounted = plan(observed(ended(10, log=log(head=9, commit_epoch=EPOCH, step=33)), status=going.status, **job)).status
    entry = current_attempt(accounted)
    assert (entry.reason, entry.verdict, entry.counted) == (reason, Verdict.INTERRUPTED, False)
    assert (accounted.interruptions, accounted.failures) == (0, 0)
    over = plan(observed(status=accounted, **job))
    assert outcome(over) == ("no_attempt_is_wanted", phase, None)
    assert plan(observed(status=over.status, **job)).status == over.status
    complete = condition(over.status, ConditionType.COMPLETE)
    if phase.terminal:
        assert complete is not None
        assert (complete.status, complete.reason) == ("False", reason)
        assert "step 33" in complete.message


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("recorded", ["new", "never seen", "ended", "backing off", "suspended"])
def test_where_nothing_runs_a_wish_is_granted_at_once(wish: str, recorded: str) -> None:
    wanted, _, phase = WISHES[wish]
    now = change(WITHOUT_TRAINER[recorded], **LONG_ACTIVE)
    for _ in range(2 if recorded == "never seen" else 1):
        answer = plan(observed(status=now, spec=spec(**wanted)))
        assert answer.action is None
        now = answer.status
    assert now.phase is phase


def test_a_trainer_that_finishes_when_it_should_have_ended_has_finished() -> None:
    going = plan(observed(pod(progress=progress()), spec=spec(cancel=True))).status
    answer = plan(observed(ended(0, log=log()), status=going, spec=spec(cancel=True)))
    assert answer.status.phase is Phase.SUCCEEDED


def test_only_the_time_with_a_running_trainer_counts() -> None:
    limited = {"spec": spec(maxDuration="100s")}
    entry = AttemptStatus(epoch=EPOCH, reason=Reason.ATTEMPT_STARTED, pool=POOL, running_at="2027-01-15T07:59:10Z")
    running = status(attempts=(entry,), active_seconds=40.0)
    assert plan(observed(pod(running_at=NOW - 50), status=running, now=NOW + 9, **limited)).rule == "attempt_goes_on"
    assert plan(observed(pod(running_at=NOW - 50), status=running, now=NOW + 10, **limited)).rule == "trainer_is_not_wanted"
    interrupted = plan(observed(replace(ended(10, log=log()), ended_at=NOW + 5), status=running, now=NOW + 500, **limited)).status
    assert interrupted.active_seconds == 95.0, "until the trainer ended, not until anybody looked"
    following = plan(observed(status=interrupted, now=NOW + 100_000, **limited))
    assert isinstance(following.action, CreatePod), "waiting does not count"
    waiting = plan(observed(pod(PodState.SCHEDULING, epoch=EPOCH + 1), status=following.status, now=NOW + 200_000, **limited))
    assert waiting.rule == "attempt_goes_on"


def test_more_time_given_while_the_last_trainer_commits_is_used() -> None:
    going = plan(observed(pod(), status=status(**LONG_ACTIVE), spec=spec(maxDuration="1h"))).status
    accounted = plan(observed(ended(10, log=log()), status=going, spec=spec(maxDuration="2h"))).status
    assert isinstance(plan(observed(status=accounted, spec=spec(maxDuration="2h"))).action, CreatePod)


SPENT: dict[str, Any] = {"failures": 3, "no_progress": 3, "early_interruptions": 2, "not_before": NOW + 100, **LONG_ACTIVE}


def test_another_retry_token_lets_a_failed_job_run_again_with_fresh_budgets_in_a_new_attempt() -> None:
    failed = resting(phase=Phase.FAILED, retry_token="one", interruptions=7, log={"headSlot": 41, "maxEpoch": EPOCH}, **SPENT)
    again = spec(retryToken="two", maxDuration="1h")
    answer = plan(observed(status=failed, spec=again))
    assert outcome(answer) == ("retry_is_wanted", Phase.PENDING, None)
    assert [event.reason for event in answer.events] == [Reason.RETRIED]
    fresh = answer.status
    assert (fresh.failures, fresh.no_progress, fresh.early_interruptions, fresh.not_before, fresh.active_seconds) == (0, 0, 0, 0.0, 0.0)
    assert fresh.interruptions == 7
    following = plan(observed(status=fresh, spec=again))
    assert isinstance(following.action, CreatePod)
    assert (following.action.epoch, following.action.min_slot) == (EPOCH + 1, 42)
    for phase in (Phase.SUCCEEDED, Phase.CANCELLED):
        assert plan(observed(status=change(failed, phase=phase), spec=again)).rule == "job_is_over"


@pytest.mark.parametrize("token", ["", "one"])
def test_a_retry_token_that_was_there_when_the_last_attempt_started_retries_nothing(token: str) -> None:
    begun = plan(observed(status=resting(), spec=spec(retryToken=token))).status
    assert begun.retry_token == token
    failed = change(begun, phase=Phase.FAILED, accounted=begun.attempt)
    assert plan(observed(status=failed, spec=spec(retryToken=token))).rule == "job_is_over"


def test_a_retry_token_that_was_changed_during_the_last_attempt_is_not_lost() -> None:
    failed = plan(observed(ended(20), status=status(retry_token="one"), spec=spec(retryToken="two"))).status
    assert failed.phase is Phase.FAILED
    assert plan(observed(status=failed, spec=spec(retryToken="two"))).rule == "retry_is_wanted"


def test_a_cancelled_job_is_not_retried() -> None:
    failed = resting(phase=Phase.FAILED)
    assert plan(observed(status=failed, spec=spec(retryToken="two", cancel=True))).rule == "job_is_over"
