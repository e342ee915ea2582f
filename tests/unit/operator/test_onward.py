"""How an attempt follows one that was asked to end: cold or warm; and what a recommendation to leave a machine is taken for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from spottune_contract.exitcodes import PodEnd
from spottune_operator.api.reasons import Phase, Reason
from spottune_operator.api.v1alpha1 import AttemptStatus, FineTuneJobStatus, NoticeStatus
from spottune_operator.manifests import TrainerDefaults, trainer_pod
from spottune_operator.planner.plan import plan
from spottune_operator.planner.statuses import change
from spottune_operator.planner.types import AskCheckpoint, CreatePod, DeletePod, Notice, Observed, ObservedPod, Plan, PodState
from tests.fixtures.observations import EPOCH, NOW, POOL, ended, observed, outcome, pod, resting, spec, status

UNTIL = NOW + 95
RAN = AttemptStatus(
    epoch=EPOCH, reason=Reason.INTERRUPTION_NOTICE, pool=POOL, running_at="2027-01-15T07:59:00Z", claimed=True, step_from=0, step_to=30
)
HEARD = NoticeStatus(
    epoch=EPOCH, kind="Interruption", source="sqs", node="n1", deadline=NOW + 100, announced_at=NOW - 20, heard_at=NOW - 19
)
RECOMMENDED = Notice("n1", "Rebalance", "sqs", heard_at=NOW - 1)
WARM, MOVE = spec(handover="Warm"), spec(onRebalance="Move")


def leaving(**changes: Any) -> ObservedPod:
    """The current pod, which was asked to end and still commits."""
    return pod(PodState.TERMINATING, **{"ends_by": UNTIL} | changes)


def drained(*pods: ObservedPod, **changes: Any) -> Observed:
    return observed(
        *(pods or (leaving(),)), **{"spec": WARM, "status": status(attempts=(RAN,), notice=HEARD, phase=Phase.DRAINING)} | changes
    )


def followed() -> FineTuneJobStatus:
    return plan(drained()).status


def started() -> Plan:
    """The number of the successor is persisted."""
    return plan(drained(status=followed()))


def test_warm_the_successor_is_due_while_its_predecessor_still_commits() -> None:
    answer = plan(drained())
    assert outcome(answer) == ("successor_may_start", Phase.ACCOUNTING, None)
    assert (answer.status.accounted, answer.status.interruptions) == (EPOCH, 1)
    assert answer.status.handover is not None
    assert (answer.status.handover.epoch, answer.status.handover.until) == (EPOCH, UNTIL)
    (event,) = answer.events
    assert (event.reason, "The next one starts already" in event.message) == (Reason.INTERRUPTION_NOTICE, True)


def test_its_pod_is_made_beside_the_one_that_leaves_and_knows_for_whom_it_waits() -> None:
    assert outcome(started()) == ("next_attempt_is_due", Phase.STARTING, CreatePod)
    action = started().action
    assert isinstance(action, CreatePod)
    assert (action.epoch, action.predecessor, action.predecessor_until) == (EPOCH + 1, EPOCH, UNTIL)
    defaults = TrainerDefaults(cluster="c", image="trainer:1")
    containers = trainer_pod(drained(), action, defaults)["spec"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in containers[0]["env"]}
    assert (environment["SPOTTUNE_HANDOVER"], environment["SPOTTUNE_PREDECESSOR"]) == ("Warm", str(EPOCH))


@pytest.mark.parametrize(
    "job",
    [
        drained(spec=spec()),
        drained(leaving(running_at=0.0)),
        drained(status=status(attempts=(RAN.model_copy(update={"reason": Reason.SUSPENDED}),), phase=Phase.DRAINING)),
        drained(spec=spec(handover="Warm", suspend=True)),
    ],
    ids=["cold", "never ran", "the user wanted it", "the user wants none now"],
)
def test_otherwise_the_pod_is_waited_for(job: Observed) -> None:
    assert outcome(plan(job)) == ("pod_is_going", Phase.DRAINING, None)


def test_a_third_attempt_waits_until_the_first_of_three_has_gone() -> None:
    """Only one predecessor may still commit: the third would wait for the second's mark alone."""
    second = drained(leaving(), pod(PodState.TERMINATING, EPOCH + 1, ends_by=UNTIL + 50), status=started().status)
    seen = change(second.status, pod_uid=f"pod-{EPOCH + 1}", attempts=(*second.status.attempts[:-1], _ran(second.status.attempts[-1])))
    third = plan(replace(second, status=seen))
    assert outcome(third)[0] == "successor_may_start"
    waits = plan(replace(second, status=third.status))
    assert (waits.rule, waits.action) == ("older_pods_remain", None)
    assert outcome(plan(replace(second, pods=second.pods[1:], status=third.status)))[0] == "next_attempt_is_due"


def _ran(entry: AttemptStatus) -> AttemptStatus:
    return entry.model_copy(
        update={"reason": Reason.INTERRUPTION_NOTICE, "running_at": "2027-01-15T07:59:30Z", "claimed": True, "step_to": 40}
    )


def test_the_ledger_begins_with_the_notice_and_gets_the_end_of_the_pod_when_it_is_seen() -> None:
    entry = followed().attempts[-1]
    assert entry.interruption is not None
    assert (entry.interruption.source, entry.interruption.gone) == ("sqs", None)
    gone = replace(ended(10), ended_at=NOW + 3, deleting=True)
    successor = pod(PodState.RUNNING, EPOCH + 1)
    later = plan(drained(gone, successor, status=change(started().status, phase=Phase.RUNNING, pod_uid=successor.uid), now=NOW + 4))
    kept = next(a for a in later.status.attempts if a.epoch == EPOCH)
    assert kept.interruption is not None
    assert kept.interruption.gone is not None


def test_a_pod_that_nobody_announced_the_end_of_was_deleted() -> None:
    unknown = status(attempts=(RAN.model_copy(update={"reason": Reason.ATTEMPT_STARTED}),))
    entry = plan(drained(status=unknown)).status.attempts[-1]
    assert entry.reason == Reason.POD_DELETED
    assert entry.interruption is not None
    assert entry.interruption.source == "deletion"
    evicted = plan(drained(leaving(end=PodEnd(disruption="EvictionByEvictionAPI")), status=unknown)).status.attempts[-1]
    assert evicted.reason == Reason.INTERRUPTED


def test_a_cold_attempt_after_a_warm_one_waits_for_nobody() -> None:
    answer = plan(observed(status=resting(), spec=WARM))
    assert isinstance(answer.action, CreatePod)
    assert (answer.action.predecessor, answer.action.predecessor_until) == (0, 0.0)


def test_move_a_recommendation_ends_the_pod_in_its_whole_time() -> None:
    answer = plan(observed(pod(), spec=MOVE, notices=(RECOMMENDED,)))
    assert outcome(answer) == ("machine_should_be_left", Phase.DRAINING, DeletePod)
    assert isinstance(answer.action, DeletePod)
    assert answer.action.grace_seconds == observed().settings.pod_grace
    assert answer.action.tell is not None
    assert answer.action.tell.deadline is None
    (event,) = answer.events
    assert "spec.onRebalance is Move" in event.message


def test_move_what_did_not_keep_the_pod_from_coming_does_not_chase_it_away() -> None:
    """Else a job would go round and round on a machine that has a maintenance in a week."""
    old = replace(RECOMMENDED, heard_at=NOW - 61)
    answer = plan(observed(pod(created_at=NOW - 60), spec=MOVE, notices=(old,)))
    assert outcome(answer) == ("machine_should_be_left", Phase.RUNNING, AskCheckpoint)


def test_stay_is_the_default() -> None:
    answer = plan(observed(pod(), notices=(RECOMMENDED,)))
    assert outcome(answer) == ("machine_should_be_left", Phase.RUNNING, AskCheckpoint)
