"""The planner as truth tables: what was found decides the rule, the phase and the side effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from spottune_contract.exitcodes import PodEnd, Verdict
from spottune_contract.progress import TrainerPhase
from spottune_operator.api.reasons import ConditionType, Phase, Reason
from spottune_operator.api.v1alpha1 import STATUS_LIMIT, AttemptStatus, FineTuneJobStatus, PoolStatus
from spottune_operator.planner.plan import plan
from spottune_operator.planner.statuses import change, condition, current_attempt, size
from spottune_operator.planner.types import (
    AskCheckpoint,
    CreatePod,
    DeletePod,
    Notice,
    Observed,
    ObservedPod,
    Obstacle,
    ObstacleKind,
    Plan,
    PodState,
    Settings,
)
from tests.fixtures.observations import EPOCH, NOW, POOL, ended, log, observed, pod, progress, resting, spec, status

PODS: dict[str, ObservedPod | None] = {
    "gone": None,
    "without node": pod(PodState.SCHEDULING),
    "unschedulable": pod(PodState.SCHEDULING, unschedulable="0/3 nodes", created_at=NOW - 10),
    "unschedulable for long": pod(PodState.SCHEDULING, unschedulable="0/3 nodes", created_at=NOW - 100),
    "being created": pod(PodState.CREATING),
    "without image": pod(PodState.CREATING, waiting_reason="ImagePullBackOff", waiting_message="no such image"),
    "with a name that is no image": pod(PodState.CREATING, waiting_reason="InvalidImageName", waiting_message="no reference"),
    "without secret": pod(PodState.CREATING, waiting_reason="CreateContainerConfigError", waiting_message='secret "s" not found'),
    "not asked yet": pod(PodState.RUNNING),
    "loading": pod(PodState.RUNNING, progress=progress(phase=TrainerPhase.LOADING)),
    "training": pod(PodState.RUNNING, progress=progress()),
    "terminating": pod(PodState.TERMINATING),
    "lost": pod(PodState.LOST),
    "stuck": pod(PodState.STUCK),
    "done": ended(0, log=log()),
    "yielded": ended(10, log=log()),
    "crashed": ended(1, word=False),
    "misconfigured": ended(20),
}
STATUSES: dict[str, FineTuneJobStatus] = {
    "new": FineTuneJobStatus(),
    "never seen": status(pod_uid=""),
    "seen": status(),
    "accounted": resting(),
    "backing off": resting(phase=Phase.WAITING, not_before=NOW + 20),
    "suspended": resting(phase=Phase.SUSPENDED),
    "succeeded": resting(phase=Phase.SUCCEEDED),
    "failed": resting(phase=Phase.FAILED),
}
NOTICES: dict[str, tuple[Notice, ...]] = {
    "no notice": (),
    "interruption": (Notice("n1", "Interruption", "sqs", NOW + 100),),
    "recommendation": (Notice("n1", "Rebalance", "sqs"),),
}
OBSTACLES: dict[str, Obstacle | None] = {"no obstacle": None} | {
    kind.value: Obstacle(kind, EPOCH, "the API server's text", NOW) for kind in ObstacleKind
}

Expected = tuple[str, Phase, type | None]
NOTHING: Expected = ("attempt_goes_on", Phase.STARTING, None)

# The pod of the current attempt, seen before: × suspended × noticed.
CURRENT: dict[tuple[str, bool, str], Expected] = {
    ("gone", False, "no notice"): ("pod_vanished", Phase.ACCOUNTING, None),
    ("gone", True, "no notice"): ("pod_vanished", Phase.ACCOUNTING, None),
    ("without node", False, "no notice"): NOTHING,
    ("without node", True, "no notice"): ("trainer_is_not_wanted", Phase.DRAINING, DeletePod),
    ("unschedulable", False, "no notice"): ("pod_finds_no_machine", Phase.STARTING, None),
    ("unschedulable for long", False, "no notice"): ("pod_finds_no_machine", Phase.ACCOUNTING, None),
    ("unschedulable for long", True, "no notice"): ("trainer_is_not_wanted", Phase.DRAINING, DeletePod),
    ("being created", False, "no notice"): NOTHING,
    ("being created", False, "interruption"): ("machine_goes_away", Phase.DRAINING, DeletePod),
    ("without image", False, "no notice"): ("container_cannot_start", Phase.STARTING, None),
    ("without secret", False, "no notice"): ("container_cannot_start", Phase.STARTING, None),
    ("with a name that is no image", False, "no notice"): ("container_cannot_start", Phase.FAILED, None),
    ("not asked yet", False, "no notice"): ("attempt_goes_on", Phase.RUNNING, None),
    ("loading", False, "no notice"): NOTHING,
    ("training", False, "no notice"): ("attempt_goes_on", Phase.RUNNING, None),
    ("training", True, "no notice"): ("trainer_is_not_wanted", Phase.DRAINING, DeletePod),
    ("training", True, "interruption"): ("trainer_is_not_wanted", Phase.DRAINING, DeletePod),
    ("training", False, "interruption"): ("machine_goes_away", Phase.DRAINING, DeletePod),
    ("training", False, "recommendation"): ("machine_should_be_left", Phase.RUNNING, AskCheckpoint),
    ("terminating", False, "no notice"): ("pod_is_going", Phase.DRAINING, None),
    ("terminating", True, "interruption"): ("pod_is_going", Phase.DRAINING, None),
    ("lost", False, "no notice"): ("node_is_unreachable", Phase.ACCOUNTING, None),
    ("stuck", False, "no notice"): ("pod_cannot_be_ended", Phase.ACCOUNTING, None),
    ("stuck", True, "interruption"): ("pod_cannot_be_ended", Phase.ACCOUNTING, None),
    ("done", False, "no notice"): ("pod_has_ended", Phase.SUCCEEDED, None),
    ("done", True, "interruption"): ("pod_has_ended", Phase.SUCCEEDED, None),
    ("yielded", False, "no notice"): ("pod_has_ended", Phase.ACCOUNTING, None),
    ("crashed", False, "no notice"): ("pod_has_ended", Phase.ACCOUNTING, None),
    ("misconfigured", False, "no notice"): ("pod_has_ended", Phase.FAILED, None),
}

# No pod at all: × what is recorded × suspended × what the last create met.
ALONE: dict[tuple[str, bool, str], Expected] = {
    ("new", False, "no obstacle"): ("next_attempt_is_due", Phase.STARTING, CreatePod),
    ("new", True, "no obstacle"): ("no_attempt_is_wanted", Phase.SUSPENDED, None),
    ("never seen", False, "no obstacle"): ("pod_is_missing", Phase.STARTING, CreatePod),
    ("never seen", True, "no obstacle"): ("attempt_is_not_wanted_any_more", Phase.ACCOUNTING, None),
    ("never seen", False, "Quota"): ("pod_was_refused", Phase.WAITING, None),
    ("never seen", False, "NameTaken"): ("pod_was_refused", Phase.WAITING, None),
    ("never seen", False, "Missing"): ("pod_was_refused", Phase.WAITING, None),
    ("never seen", False, "Terminating"): ("namespace_goes_away", Phase.CANCELLED, None),
    ("never seen", False, "Denied"): ("pod_was_refused", Phase.FAILED, None),
    ("never seen", True, "Denied"): ("attempt_is_not_wanted_any_more", Phase.ACCOUNTING, None),
    ("accounted", False, "no obstacle"): ("next_attempt_is_due", Phase.STARTING, CreatePod),
    ("accounted", True, "no obstacle"): ("no_attempt_is_wanted", Phase.SUSPENDED, None),
    ("backing off", False, "no obstacle"): ("backoff_is_not_over", Phase.WAITING, None),
    ("backing off", True, "no obstacle"): ("no_attempt_is_wanted", Phase.SUSPENDED, None),
    ("suspended", False, "no obstacle"): ("next_attempt_is_due", Phase.STARTING, CreatePod),
    ("suspended", True, "no obstacle"): ("no_attempt_is_wanted", Phase.SUSPENDED, None),
    ("succeeded", False, "no obstacle"): ("job_is_over", Phase.SUCCEEDED, None),
    ("failed", True, "no obstacle"): ("job_is_over", Phase.FAILED, None),
}


# What the user wants instead of a running trainer: the spec that says so, the reason, and the phase that it leads to.
WISHES: dict[str, tuple[dict[str, Any], Reason, Phase]] = {
    "suspended": ({"suspend": True}, Reason.SUSPENDED, Phase.SUSPENDED),
    "cancelled": ({"cancel": True}, Reason.CANCELLED, Phase.CANCELLED),
    "out of time": ({"maxDuration": "1h"}, Reason.MAX_DURATION, Phase.FAILED),
    "cancelled while suspended": ({"cancel": True, "suspend": True}, Reason.CANCELLED, Phase.CANCELLED),
    "suspended and out of time": ({"maxDuration": "1h", "suspend": True}, Reason.SUSPENDED, Phase.SUSPENDED),
}
LONG_ACTIVE = {"active_seconds": 3600.0}


def outcome(answer: Plan) -> tuple[str, Phase, type | None]:
    return answer.rule, answer.status.phase, type(answer.action) if answer.action is not None else None


def pods(name: str) -> tuple[ObservedPod, ...]:
    found = PODS[name]
    return () if found is None else (found,)


@pytest.mark.parametrize(("found", "suspended", "notice"), CURRENT)
def test_the_pod_of_the_current_attempt_decides(found: str, suspended: bool, notice: str) -> None:
    answer = plan(observed(*pods(found), spec=spec(suspend=suspended), notices=NOTICES[notice]))
    assert outcome(answer) == CURRENT[found, suspended, notice]


@pytest.mark.parametrize(("recorded", "suspended", "obstacle"), ALONE)
def test_without_a_pod_the_record_decides(recorded: str, suspended: bool, obstacle: str) -> None:
    answer = plan(observed(status=STATUSES[recorded], spec=spec(suspend=suspended), obstacle=OBSTACLES[obstacle]))
    assert outcome(answer) == ALONE[recorded, suspended, obstacle]


# -- what users want ---------------------------------------------------------------------------------------------------


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
@pytest.mark.parametrize("recorded", ["new", "never seen", "accounted", "backing off", "suspended"])
def test_where_nothing_runs_a_wish_is_granted_at_once(wish: str, recorded: str) -> None:
    wanted, _, phase = WISHES[wish]
    now = change(STATUSES[recorded], **LONG_ACTIVE)
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


# -- single stories ----------------------------------------------------------------------------------------------------


def test_an_epoch_is_above_everything_that_was_heard_of() -> None:
    recorded = resting(log={"headSlot": 41, "maxEpoch": 9})
    answer = plan(observed(status=recorded))
    assert answer.status.attempt == 10
    assert isinstance(answer.action, CreatePod)
    assert (answer.action.epoch, answer.action.min_slot, answer.action.name) == (10, 42, "python-help-e10-0")


def test_a_stale_epoch_is_jumped_over_at_once_and_costs_nothing() -> None:
    accounted = plan(observed(ended(12, log=log(head=50, max_epoch=8)))).status
    assert (accounted.failures, accounted.no_progress, accounted.interruptions, accounted.not_before) == (0, 0, 0, 0)
    answer = plan(observed(status=accounted))
    assert answer.status.attempt == 9
    assert isinstance(answer.action, CreatePod)
    assert answer.action.min_slot == 51


def test_the_status_tells_where_the_log_is_from_the_first_attempt_on() -> None:
    settings = Settings(cluster="eu-1")
    begun = plan(observed(status=resting(), settings=settings)).status
    place = "s3://checkpoints/team/eu-1/demo/job-uid"
    assert begun.log.location == place
    running = change(status(), log=begun.log)
    heard = plan(observed(pod(progress=progress(log=log(head=9, commit_epoch=EPOCH))), status=running, settings=settings)).status
    assert (heard.log.head_slot, heard.log.location) == (9, place)


def test_later_attempts_get_the_image_of_the_first_one() -> None:
    recorded = resting(first_image_digest="repo@sha256:1")
    action = plan(observed(status=recorded)).action
    assert isinstance(action, CreatePod)
    assert action.image_digest == "repo@sha256:1"


def test_a_pod_that_a_cache_does_not_show_is_not_believed_to_be_gone() -> None:
    answer = plan(observed(live=False))
    assert answer.look_live
    assert answer.status == status()
    assert answer.action is None


def test_an_older_pod_that_may_train_is_ended_before_the_next_is_made() -> None:
    older = pod(PodState.RUNNING, epoch=2)
    first = plan(observed(older, status=resting()))
    assert outcome(first) == ("older_pods_remain", Phase.ACCOUNTING, DeletePod)
    going = plan(observed(replace(older, state=PodState.TERMINATING, deleting=True), status=resting()))
    assert outcome(going) == ("older_pods_remain", Phase.ACCOUNTING, None)
    for fenced in (PodState.LOST, PodState.STUCK):
        out_of_reach = plan(observed(replace(older, state=fenced, deleting=True), status=resting()))
        assert outcome(out_of_reach) == ("next_attempt_is_due", Phase.STARTING, CreatePod)


def test_a_pod_that_nobody_can_end_does_not_hold_the_job_up_and_says_where_it_hangs() -> None:
    going = status(attempts=(AttemptStatus(epoch=EPOCH, reason=Reason.INTERRUPTION_NOTICE, pool=POOL, claimed=True),))
    answer = plan(observed(pod(PodState.STUCK, end=PodEnd(deleted=True)), status=going))
    (event,) = answer.events
    assert event.reason is Reason.POD_STUCK
    assert "node n1" in event.message
    entry = current_attempt(answer.status)
    assert (entry.verdict, entry.reason) == (Verdict.INTERRUPTED, Reason.INTERRUPTION_NOTICE)
    assert "void" in entry.message
    assert (answer.status.failures, answer.status.interruptions) == (0, 1)
    following = plan(observed(pod(PodState.STUCK, end=PodEnd(deleted=True)), status=answer.status))
    assert following.rule in ("next_attempt_is_due", "backoff_is_not_over")


def test_what_has_ended_is_swept_while_the_next_attempt_runs() -> None:
    answer = plan(observed(pod(PodState.ENDED, epoch=2), pod(PodState.RUNNING, progress=progress())))
    assert outcome(answer) == ("pods_are_left_over", Phase.RUNNING, DeletePod)
    assert isinstance(answer.action, DeletePod)
    assert answer.action.uid == "pod-2"


def test_a_pod_of_a_later_attempt_is_adopted() -> None:
    answer = plan(observed(pod(PodState.RUNNING, epoch=7)))
    assert answer.rule == "pods_of_a_later_attempt_exist"
    assert (answer.status.attempt, answer.status.accounted) == (7, 6)
    assert plan(observed(pod(PodState.RUNNING, epoch=7), status=answer.status)).action is None


def test_another_pod_under_the_name_of_the_one_that_was_seen_is_not_it() -> None:
    answer = plan(observed(pod(PodState.RUNNING, **{"created_at": NOW}), status=status(pod_uid="another")))
    assert answer.rule == "pod_vanished"


def test_a_notice_tells_the_trainer_and_leaves_a_margin() -> None:
    action = plan(observed(pod(progress=progress()), notices=(Notice("n1", "Interruption", "sqs", NOW + 60),))).action
    assert isinstance(action, DeletePod)
    assert action.grace_seconds == 55
    assert action.tell is not None
    assert (action.tell.source, action.tell.deadline) == ("sqs", NOW + 60)


@pytest.mark.parametrize(
    ("left", "grace"),
    [(200, 100), (106, 100), (20, 15), (5, 1), (-30, 100)],
    ids=["early", "usual", "late", "very late", "passed, but the machine still runs"],
)
def test_the_grace_time_is_what_is_left(left: float, grace: int) -> None:
    action = plan(observed(pod(created_at=NOW - 1000), notices=(Notice("n1", "Interruption", "sqs", NOW + left),))).action
    assert isinstance(action, DeletePod)
    assert action.grace_seconds == grace


@pytest.mark.parametrize(
    "notice",
    [
        Notice("n2", "Interruption", "sqs", NOW + 60),
        Notice("n1", "Interruption", "sqs", NOW - 301),
        Notice("n1", "Interruption", "sqs", NOW - 61),
    ],
    ids=["another node", "long over", "over before the pod was made"],
)
def test_a_notice_that_does_not_concern_the_pod_changes_nothing(notice: Notice) -> None:
    seen = observed(pod(progress=progress()))
    assert plan(replace(seen, notices=(notice,))) == plan(seen)


def test_a_recommendation_asks_once_per_attempt() -> None:
    seen = observed(pod(progress=progress()), notices=NOTICES["recommendation"])
    first = plan(seen)
    assert isinstance(first.action, AskCheckpoint)
    assert plan(replace(seen, status=first.status)).action is None


def test_repeated_notices_cause_one_deletion() -> None:
    seen = observed(pod(progress=progress()), notices=NOTICES["interruption"] * 5)
    first = plan(seen)
    gone = replace(seen, status=first.status, pods=(pod(PodState.TERMINATING),))
    second = plan(gone)
    assert second.action is None
    assert plan(replace(gone, status=second.status)).status == second.status


def test_a_pod_without_machine_moves_to_another_pool_and_costs_nothing() -> None:
    waiting = pod(PodState.SCHEDULING, unschedulable="0/3 nodes", created_at=NOW - 100)
    moved = plan(observed(waiting)).status
    assert (moved.failures, moved.no_progress, moved.interruptions) == (0, 0, 0)
    assert current_attempt(moved).reason is Reason.NO_CAPACITY
    answer = plan(observed(status=moved))
    assert isinstance(answer.action, CreatePod)
    assert answer.action.pool != POOL


def test_a_pod_without_machine_stays_where_it_is_if_nothing_else_is_allowed() -> None:
    waiting = pod(PodState.SCHEDULING, unschedulable="0/3 nodes", created_at=NOW - 100)
    only = spec(capacity={"instanceTypes": ["g5.xlarge"], "zones": ["us-east-1a"]})
    answer = plan(observed(waiting, spec=only))
    assert outcome(answer) == ("pod_finds_no_machine", Phase.WAITING, None)
    found = condition(answer.status, ConditionType.CAPACITY_AVAILABLE)
    assert found is not None
    assert (found.status, found.reason) == ("False", Reason.NO_CAPACITY)
    assert "0/3 nodes" in found.message


def test_with_every_pool_closed_the_job_waits_for_the_first() -> None:
    closed = tuple(PoolStatus(pool=f"{t}/{z}/spot", failures=1, not_before=NOW + wait) for t, z, wait in pools_and_waits())
    answer = plan(observed(status=resting(pools=closed)))
    assert outcome(answer) == ("no_pool_is_open", Phase.WAITING, None)
    assert answer.requeue_after == 10


def pools_and_waits() -> list[tuple[str, str, float]]:
    return [
        ("g5.xlarge", "us-east-1a", 40),
        ("g5.xlarge", "us-east-1b", 10),
        ("g6.xlarge", "us-east-1a", 20),
        ("g6.xlarge", "us-east-1b", 30),
    ]


def test_an_image_that_cannot_be_had_is_told_at_once_and_given_up_after_ten_minutes() -> None:
    missing = PODS["without image"]
    assert missing is not None
    first = plan(observed(missing))
    told = condition(first.status, ConditionType.STARTED)
    assert told is not None
    assert (told.status, told.reason) == ("False", Reason.IMAGE_UNAVAILABLE)
    assert "no such image" in told.message
    alternating = replace(missing, waiting_reason="ErrImagePull", waiting_message="other words")
    assert plan(observed(alternating, status=first.status, now=NOW + 300)).status == first.status
    last = plan(observed(missing, status=first.status, now=NOW + 601)).status
    assert last.phase is Phase.FAILED
    over = condition(last, ConditionType.COMPLETE)
    assert over is not None
    assert over.reason is Reason.IMAGE_UNAVAILABLE


# What holds a pod up × the condition that tells of it: reason, phase, and words of the remedy.
HELD_UP: dict[str, tuple[Observed, ConditionType, Reason, Phase, str]] = {
    "quota": (
        observed(status=status(pod_uid=""), obstacle=OBSTACLES["Quota"]),
        ConditionType.CAPACITY_AVAILABLE,
        Reason.QUOTA_EXCEEDED,
        Phase.WAITING,
        "Raise the namespace's ResourceQuota",
    ),
    "something is missing": (
        observed(status=status(pod_uid=""), obstacle=OBSTACLES["Missing"]),
        ConditionType.CAPACITY_AVAILABLE,
        Reason.REFERENCE_MISSING,
        Phase.WAITING,
        "Create what is missing",
    ),
    "denied": (
        observed(status=status(pod_uid=""), obstacle=OBSTACLES["Denied"]),
        ConditionType.COMPLETE,
        Reason.POD_DENIED,
        Phase.FAILED,
        "Change podOverrides, or the policy, and set spec.retryToken",
    ),
    "the namespace goes": (
        observed(status=status(pod_uid=""), obstacle=OBSTACLES["Terminating"]),
        ConditionType.COMPLETE,
        Reason.NAMESPACE_TERMINATING,
        Phase.CANCELLED,
        "create the job in another namespace",
    ),
    "no node yet": (
        observed(pod(PodState.SCHEDULING, unschedulable="the API server's text", created_at=NOW)),
        ConditionType.CAPACITY_AVAILABLE,
        Reason.WAITING_FOR_NODE,
        Phase.STARTING,
        "another pool of spec.capacity",
    ),
    "no node at all": (
        observed(
            pod(PodState.SCHEDULING, unschedulable="the API server's text", created_at=NOW - 100),
            spec=spec(capacity={"instanceTypes": ["g5.xlarge"], "zones": ["us-east-1a"]}),
        ),
        ConditionType.CAPACITY_AVAILABLE,
        Reason.NO_CAPACITY,
        Phase.WAITING,
        "More instanceTypes or zones",
    ),
    "no image": (
        observed(pod(PodState.CREATING, waiting_reason="ErrImagePull", waiting_message="the API server's text")),
        ConditionType.STARTED,
        Reason.IMAGE_UNAVAILABLE,
        Phase.STARTING,
        "Correct podOverrides.image",
    ),
    "no image name": (
        observed(pod(PodState.CREATING, waiting_reason="InvalidImageName", waiting_message="the API server's text")),
        ConditionType.COMPLETE,
        Reason.IMAGE_UNAVAILABLE,
        Phase.FAILED,
        "Correct podOverrides.image or the registry's credentials. Then set spec.retryToken",
    ),
    "no secret": (
        observed(pod(PodState.CREATING, waiting_reason="CreateContainerConfigError", waiting_message="the API server's text")),
        ConditionType.STARTED,
        Reason.CONTAINER_NOT_CREATED,
        Phase.STARTING,
        "Create the secret",
    ),
}


@pytest.mark.parametrize("what", HELD_UP)
def test_what_holds_a_pod_up_is_told_with_its_remedy_and_spends_nothing(what: str) -> None:
    seen, kind, reason, phase, remedy = HELD_UP[what]
    answer = plan(seen)
    told = condition(answer.status, kind)
    assert told is not None
    assert (answer.status.phase, told.status, told.reason) == (phase, "False", reason)
    assert "the API server's text" in told.message
    assert remedy in told.message
    assert [event.reason for event in answer.events] in ([reason], [])
    assert (answer.status.failures, answer.status.no_progress, answer.status.interruptions) == (0, 0, 0)


@pytest.mark.parametrize("found", ["unschedulable", "without image", "without secret"])
def test_an_edit_of_the_spec_reaches_a_pod_that_cannot_start_in_the_next_attempt(found: str) -> None:
    entry = AttemptStatus(epoch=EPOCH, generation=4, reason=Reason.ATTEMPT_STARTED, pool=POOL)
    before = plan(observed(*pods(found), status=status(attempts=(entry,)), generation=4))
    assert before.rule in ("pod_finds_no_machine", "container_cannot_start")
    edited = plan(observed(*pods(found), status=before.status, generation=5))
    assert outcome(edited) == ("spec_was_edited_meanwhile", Phase.ACCOUNTING, None)
    assert [event.reason for event in edited.events] == [Reason.SPEC_EDITED]
    assert edited.status.failures == 0
    swept = plan(observed(*pods(found), status=edited.status, generation=5))
    assert outcome(swept) == ("older_pods_remain", Phase.ACCOUNTING, DeletePod)
    following = plan(observed(status=edited.status, generation=5))
    assert isinstance(following.action, CreatePod)
    assert current_attempt(following.status).generation == 5


@pytest.mark.parametrize("found", ["without node", "being created", "training"])
def test_an_edit_of_the_spec_leaves_a_pod_alone_that_starts_or_runs(found: str) -> None:
    entry = AttemptStatus(epoch=EPOCH, generation=4, reason=Reason.ATTEMPT_STARTED, pool=POOL)
    answer = plan(observed(*pods(found), status=status(attempts=(entry,)), generation=5))
    assert (answer.rule, answer.action) == ("attempt_goes_on", None)
    assert answer.status.observed_generation == 5
    assert current_attempt(answer.status).generation == 4


def test_an_unreadable_spec_is_told_and_a_corrected_one_goes_on() -> None:
    broken: dict[str, Any] = {"spec": None, "spec_error": "spec.method.rank: must be at least 1."}
    failed = plan(observed(status=FineTuneJobStatus(), **broken)).status
    assert failed.phase is Phase.FAILED
    accepted = condition(failed, ConditionType.ACCEPTED)
    assert accepted is not None
    assert "spec.method.rank" in accepted.message
    assert plan(observed(status=failed, **broken)).status == failed
    corrected = plan(observed(status=failed)).status
    assert corrected.phase is Phase.PENDING
    assert isinstance(plan(observed(status=corrected)).action, CreatePod)


def test_a_running_pod_outlives_an_unreadable_spec() -> None:
    answer = plan(observed(pod(progress=progress()), spec=None, spec_error="spec.x: unknown."))
    assert answer.action is None
    assert not answer.status.phase.terminal


def test_progress_is_written_at_most_every_ten_seconds() -> None:
    seen = observed(pod(progress=progress()))
    written = plan(seen).status
    assert (written.step, written.total_steps, written.percent, written.loss) == (21, 60, 35, 1.25)
    assert written.eta == "2027-01-15T08:01:18Z"
    later = progress(step=25, loss=1.2)
    assert plan(observed(pod(progress=later), status=written, now=NOW + 9)).status == written
    refreshed = plan(observed(pod(progress=later), status=written, now=NOW + 10)).status
    assert (refreshed.step, refreshed.loss) == (25, 1.2)


def test_nothing_new_means_nothing_to_write_however_late() -> None:
    written = plan(observed(pod(progress=progress()))).status
    assert plan(observed(pod(progress=progress()), status=written, now=NOW + 5000)).status == written


def test_an_operator_that_has_just_started_writes_nothing() -> None:
    written = plan(observed(pod(progress=progress()))).status
    assert written.phase is Phase.RUNNING
    assert plan(observed(pod(), status=written, now=NOW + 60)).status == written


def test_a_clock_that_was_set_back_makes_nobody_wait_for_hours() -> None:
    answer = plan(observed(status=resting(not_before=NOW + 100_000)))
    assert isinstance(answer.action, CreatePod)


def test_a_job_that_is_being_deleted_ends_its_pods_and_makes_none() -> None:
    answer = plan(observed(pod(progress=progress()), deleting=True))
    assert outcome(answer) == ("job_is_being_deleted", Phase.CANCELLED, DeletePod)
    assert plan(observed(status=answer.status, deleting=True)).action is None


def test_a_status_full_of_long_texts_still_fits() -> None:
    long = tuple(
        AttemptStatus(
            epoch=n, reason=Reason.TRAINER_FAILED, message="é" * 256, pod="p" * 253, node="n" * 253, pool="q" * 253, zone="z" * 253
        )
        for n in range(1, 11)
    )
    pools = tuple(PoolStatus(pool=f"{n}" + "x" * 200, not_before=NOW + 60) for n in range(12))
    after = plan(observed(status=status(attempt=11, accounted=10, pod_uid="", attempts=long, pools=pools))).status
    assert size(after) <= STATUS_LIMIT
    assert after.attempt == 11
    assert after.attempts[-1].epoch >= 10
