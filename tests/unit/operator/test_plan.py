"""The planner as truth tables: what was found decides the rule, the phase and the side effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from spottune_contract.exitcodes import PodEnd, Verdict
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
    PodState,
    Settings,
)
from tests.fixtures import planner_table as table
from tests.fixtures.observations import EPOCH, NOW, POOL, ended, log, observed, outcome, pod, progress, resting, spec, status

PODS: dict[str, ObservedPod | None] = table.PODS | {
    "with a name that is no image": pod(PodState.CREATING, waiting_reason="InvalidImageName", waiting_message="no reference"),
    "lost": pod(PodState.LOST),
    "stuck": pod(PodState.STUCK),
    "done": ended(0, log=log()),
    "yielded": ended(10, log=log()),
    "crashed": ended(1, word=False),
    "misconfigured": ended(20),
}
RECORDS: dict[str, FineTuneJobStatus] = table.RECORDS | {"never seen": status(pod_uid="")}

Expected = tuple[str, Phase, type | None]
NOTHING: Expected = ("attempt_goes_on", Phase.STARTING, None)

# The pod of the current attempt, seen before: × suspended × noticed.
CURRENT: dict[tuple[str, bool, str], Expected] = {
    ("none", False, "none"): ("pod_vanished", Phase.ACCOUNTING, None),
    ("none", True, "none"): ("pod_vanished", Phase.ACCOUNTING, None),
    ("without node", False, "none"): NOTHING,
    ("without node", True, "none"): ("trainer_is_not_wanted", Phase.DRAINING, DeletePod),
    ("no node fits", False, "none"): ("pod_finds_no_machine", Phase.STARTING, None),
    ("no node fits for long", False, "none"): ("pod_finds_no_machine", Phase.ACCOUNTING, None),
    ("no node fits for long", True, "none"): ("trainer_is_not_wanted", Phase.DRAINING, DeletePod),
    ("creating", False, "none"): NOTHING,
    ("creating", False, "interruption"): ("machine_goes_away", Phase.DRAINING, DeletePod),
    ("no image", False, "none"): ("container_cannot_start", Phase.STARTING, None),
    ("no secret", False, "none"): ("container_cannot_start", Phase.STARTING, None),
    ("with a name that is no image", False, "none"): ("container_cannot_start", Phase.FAILED, None),
    ("not asked yet", False, "none"): ("attempt_goes_on", Phase.RUNNING, None),
    ("loading", False, "none"): NOTHING,
    ("training", False, "none"): ("attempt_goes_on", Phase.RUNNING, None),
    ("training", True, "none"): ("trainer_is_not_wanted", Phase.DRAINING, DeletePod),
    ("training", True, "interruption"): ("trainer_is_not_wanted", Phase.DRAINING, DeletePod),
    ("training", False, "interruption"): ("machine_goes_away", Phase.DRAINING, DeletePod),
    ("training", False, "recommendation"): ("machine_should_be_left", Phase.RUNNING, AskCheckpoint),
    ("terminating", False, "none"): ("pod_is_going", Phase.DRAINING, None),
    ("terminating", True, "interruption"): ("pod_is_going", Phase.DRAINING, None),
    ("lost", False, "none"): ("node_is_unreachable", Phase.ACCOUNTING, None),
    ("stuck", False, "none"): ("pod_cannot_be_ended", Phase.ACCOUNTING, None),
    ("stuck", True, "interruption"): ("pod_cannot_be_ended", Phase.ACCOUNTING, None),
    ("done", False, "none"): ("pod_has_ended", Phase.SUCCEEDED, None),
    ("done", True, "interruption"): ("pod_has_ended", Phase.SUCCEEDED, None),
    ("yielded", False, "none"): ("pod_has_ended", Phase.ACCOUNTING, None),
    ("crashed", False, "none"): ("pod_has_ended", Phase.ACCOUNTING, None),
    ("misconfigured", False, "none"): ("pod_has_ended", Phase.FAILED, None),
}

# No pod at all: × what is recorded × suspended × what the last create met.
ALONE: dict[tuple[str, bool, str], Expected] = {
    ("new", False, "none"): ("next_attempt_is_due", Phase.STARTING, CreatePod),
    ("new", True, "none"): ("no_attempt_is_wanted", Phase.SUSPENDED, None),
    ("never seen", False, "none"): ("pod_is_missing", Phase.STARTING, CreatePod),
    ("never seen", True, "none"): ("attempt_is_not_wanted_any_more", Phase.ACCOUNTING, None),
    ("never seen", False, "Quota"): ("pod_was_refused", Phase.WAITING, None),
    ("never seen", False, "NameTaken"): ("pod_was_refused", Phase.WAITING, None),
    ("never seen", False, "Missing"): ("pod_was_refused", Phase.WAITING, None),
    ("never seen", False, "Failing"): ("pod_was_refused", Phase.RUNNING, None),
    ("never seen", False, "Failing again"): ("pod_was_refused", Phase.WAITING, None),
    ("never seen", True, "Failing again"): ("attempt_is_not_wanted_any_more", Phase.ACCOUNTING, None),
    ("never seen", False, "Terminating"): ("namespace_goes_away", Phase.CANCELLED, None),
    ("never seen", False, "Denied"): ("pod_was_refused", Phase.FAILED, None),
    ("never seen", True, "Denied"): ("attempt_is_not_wanted_any_more", Phase.ACCOUNTING, None),
    ("ended", False, "none"): ("next_attempt_is_due", Phase.STARTING, CreatePod),
    ("ended", True, "none"): ("no_attempt_is_wanted", Phase.SUSPENDED, None),
    ("backing off", False, "none"): ("backoff_is_not_over", Phase.WAITING, None),
    ("backing off", True, "none"): ("no_attempt_is_wanted", Phase.SUSPENDED, None),
    ("suspended", False, "none"): ("next_attempt_is_due", Phase.STARTING, CreatePod),
    ("suspended", True, "none"): ("no_attempt_is_wanted", Phase.SUSPENDED, None),
    ("succeeded", False, "none"): ("job_is_over", Phase.SUCCEEDED, None),
    ("failed", True, "none"): ("job_is_over", Phase.FAILED, None),
}


def pods(name: str) -> tuple[ObservedPod, ...]:
    found = PODS[name]
    return () if found is None else (found,)


@pytest.mark.parametrize(("found", "suspended", "notice"), CURRENT)
def test_the_pod_of_the_current_attempt_decides(found: str, suspended: bool, notice: str) -> None:
    answer = plan(observed(*pods(found), spec=spec(suspend=suspended), notices=table.NOTICES[notice]))
    assert outcome(answer) == CURRENT[found, suspended, notice]


@pytest.mark.parametrize(("recorded", "suspended", "obstacle"), ALONE)
def test_without_a_pod_the_record_decides(recorded: str, suspended: bool, obstacle: str) -> None:
    answer = plan(observed(status=RECORDS[recorded], spec=spec(suspend=suspended), obstacle=table.REFUSALS[obstacle]))
    assert outcome(answer) == ALONE[recorded, suspended, obstacle]


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
    seen = observed(pod(progress=progress()), notices=table.NOTICES["recommendation"])
    first = plan(seen)
    assert isinstance(first.action, AskCheckpoint)
    assert plan(replace(seen, status=first.status)).action is None


def test_repeated_notices_cause_one_deletion() -> None:
    seen = observed(pod(progress=progress()), notices=table.NOTICES["interruption"] * 5)
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
    missing = PODS["no image"]
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
        observed(status=status(pod_uid=""), obstacle=table.REFUSALS["Quota"]),
        ConditionType.CAPACITY_AVAILABLE,
        Reason.QUOTA_EXCEEDED,
        Phase.WAITING,
        "Raise the namespace's ResourceQuota",
    ),
    "something is missing": (
        observed(status=status(pod_uid=""), obstacle=table.REFUSALS["Missing"]),
        ConditionType.CAPACITY_AVAILABLE,
        Reason.REFERENCE_MISSING,
        Phase.WAITING,
        "Create what is missing",
    ),
    "the API server or a webhook fails": (
        observed(status=status(pod_uid=""), obstacle=table.REFUSALS["Failing again"]),
        ConditionType.CAPACITY_AVAILABLE,
        Reason.POD_CREATE_FAILS,
        Phase.WAITING,
        "If a webhook is named, mend its service",
    ),
    "denied": (
        observed(status=status(pod_uid=""), obstacle=table.REFUSALS["Denied"]),
        ConditionType.COMPLETE,
        Reason.POD_DENIED,
        Phase.FAILED,
        "Change podOverrides, or the policy, and set spec.retryToken",
    ),
    "the namespace goes": (
        observed(status=status(pod_uid=""), obstacle=table.REFUSALS["Terminating"]),
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


@pytest.mark.parametrize("found", ["no node fits", "no image", "no secret"])
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


@pytest.mark.parametrize("found", ["without node", "creating", "training"])
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
