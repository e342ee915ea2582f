"""The end of an attempt: verdict, budgets, backoff, and what is told."""

from __future__ import annotations

from typing import Any

import pytest

from spottune_contract.exitcodes import PodEnd, Verdict
from spottune_contract.progress import TrainerPhase
from spottune_operator.api.reasons import ConditionType, Phase, Reason
from spottune_operator.api.v1alpha1 import AttemptStatus, CommitStatus, FineTuneJobStatus
from spottune_operator.planner import backoff
from spottune_operator.planner.plan import plan
from spottune_operator.planner.statuses import condition, current_attempt
from spottune_operator.planner.types import ObservedPod, PodState
from tests.fixtures.observations import EPOCH, NOW, ended, log, observed, pod, progress, spec, status, termination

CLAIMED = AttemptStatus(
    epoch=EPOCH, reason=Reason.ATTEMPT_STARTED, claimed=True, running_at="2027-01-15T07:59:00Z", step_from=20, step_to=20
)


def account(*pods: ObservedPod, **changes: Any) -> FineTuneJobStatus:
    """The status after the end, recorded twice: the second look must not count again."""
    seen = observed(*pods, status=status(**{"attempts": (CLAIMED,)} | changes))
    after = plan(seen).status
    assert after.accounted == EPOCH
    again = plan(observed(*pods, status=after)).status
    assert (again.failures, again.interruptions, again.no_progress) == (after.failures, after.interruptions, after.no_progress)
    return after


# How it ended × had it claimed → verdict, reason, (failures, no progress, interruptions) spent.
CRASHED = {"container_reason": "Error"}
ENDS: dict[str, tuple[ObservedPod | None, bool, Verdict, Reason, tuple[int, int, int]]] = {
    "yielded": (ended(10, log=log()), True, Verdict.INTERRUPTED, Reason.INTERRUPTED, (0, 0, 1)),
    "fenced": (ended(11, log=log(max_epoch=9)), True, Verdict.FENCED, Reason.FENCED, (0, 0, 0)),
    "epoch stale": (ended(12, log=log(max_epoch=9)), False, Verdict.EPOCH_STALE, Reason.EPOCH_STALE, (0, 0, 0)),
    "transient after its claim": (ended(30, log=log()), True, Verdict.FAILED, Reason.TRAINER_FAILED, (1, 1, 0)),
    "transient before its claim": (ended(30), False, Verdict.FAILED, Reason.TRAINER_FAILED, (0, 0, 0)),
    "crashed with no word": (ended(1, word=False), True, Verdict.FAILED, Reason.TRAINER_FAILED, (1, 0, 0)),
    "crashed before its claim": (ended(1, word=False), False, Verdict.FAILED, Reason.TRAINER_FAILED, (1, 0, 0)),
    "out of memory": (
        ended(137, word=False, end={"container_reason": "OOMKilled"}),
        True,
        Verdict.OUT_OF_MEMORY,
        Reason.OUT_OF_MEMORY,
        (1, 0, 0),
    ),
    "code 0 with no word": (ended(0, word=False), False, Verdict.FAILED, Reason.TRAINER_FAILED, (1, 0, 0)),
    "killed in an eviction": (
        ended(137, word=False, end={"disruption": "EvictionByEvictionAPI"}),
        True,
        Verdict.INTERRUPTED,
        Reason.INTERRUPTED,
        (0, 0, 1),
    ),
    "killed after a deletion": (ended(137, word=False, end={"deleted": True}), True, Verdict.INTERRUPTED, Reason.INTERRUPTED, (0, 0, 1)),
    "lost with its node": (pod(PodState.LOST, end=PodEnd(vanished=True)), True, Verdict.INTERRUPTED, Reason.NODE_UNREACHABLE, (0, 0, 1)),
    "stuck after a deletion that nobody saw": (
        pod(PodState.STUCK, end=PodEnd(deleted=True)),
        True,
        Verdict.INTERRUPTED,
        Reason.POD_STUCK,
        (0, 0, 1),
    ),
    "vanished": (None, True, Verdict.INTERRUPTED, Reason.POD_VANISHED, (0, 0, 1)),
}


@pytest.mark.parametrize("how", ENDS)
def test_an_end_has_a_verdict_and_spends_what_it_should(how: str) -> None:
    found, claimed, verdict, reason, spent = ENDS[how]
    after = account(*([found] if found else []), attempts=(CLAIMED.model_copy(update={"claimed": claimed}),))
    entry = current_attempt(after)
    assert (entry.verdict, entry.reason) == (verdict, reason)
    assert (after.failures, after.no_progress, after.interruptions) == spent
    assert not after.phase.terminal


PERMANENT = {
    20: Verdict.BAD_CONFIG,
    21: Verdict.BAD_DATA,
    22: Verdict.DIVERGED,
    23: Verdict.NO_READABLE_CHECKPOINT,
    24: Verdict.STORAGE_DENIED,
}


@pytest.mark.parametrize("code", PERMANENT)
def test_what_cannot_get_better_fails_at_once_with_the_trainers_own_words(code: int) -> None:
    word = "dataset.source s3://data/x.jsonl: no such object; upload it or correct the key"
    after = account(ended(code, message=word))
    assert after.phase is Phase.FAILED
    assert after.failures == 0
    over = condition(after, ConditionType.COMPLETE)
    assert over is not None
    assert (over.status, over.reason, over.message) == ("False", Reason(PERMANENT[code].value), word)


def test_success_names_the_adapter() -> None:
    after = account(ended(0, output="s3://adapters/python-help", step=60, total_steps=60, log=log(commit_epoch=EPOCH, step=60)))
    assert (after.phase, after.output, after.percent, after.step) == (Phase.SUCCEEDED, "s3://adapters/python-help", 100, 60)
    done = condition(after, ConditionType.COMPLETE)
    assert done is not None
    assert done.status == "True"


def test_code_0_with_no_word_says_that_the_image_is_none_of_ours() -> None:
    assert "podOverrides.image" in current_attempt(account(ended(0, word=False))).message


def test_last_words_of_a_crash_are_kept() -> None:
    crashed = pod(PodState.ENDED, end=PodEnd(exit_code=1), last_words="ModuleNotFoundError: No module named 'x'")
    assert "ModuleNotFoundError" in current_attempt(account(crashed)).message


# -- budgets over several attempts -------------------------------------------------------------------------------------


def failures(count: int) -> dict[str, Any]:
    return {"failures": count, "no_progress": count, "attempts": (CLAIMED,)}


def test_the_third_failure_without_a_commit_is_the_last() -> None:
    after = account(ended(30, log=log()), **failures(2))
    assert after.phase is Phase.FAILED
    over = condition(after, ConditionType.COMPLETE)
    assert over is not None
    assert over.reason is Reason.NO_PROGRESS
    assert "ended with 30" in over.message


def test_the_limits_are_those_of_the_spec() -> None:
    seen = observed(ended(30, log=log()), status=status(**failures(2)), spec=spec(limits={"failures": 5, "noProgress": 4}))
    assert not plan(seen).status.phase.terminal


def test_a_failed_attempt_that_committed_starts_the_count_anew() -> None:
    after = account(ended(30, log=log(head=9, commit_epoch=EPOCH)), **failures(2))
    assert (after.failures, after.no_progress) == (1, 0)
    assert not after.phase.terminal


def test_a_hundred_interruptions_spend_nothing() -> None:
    after = account(ended(10, log=log()), interruptions=100, failures=2, no_progress=2)
    assert (after.interruptions, after.failures, after.no_progress) == (101, 2, 2)
    assert not after.phase.terminal


def running(**changes: Any) -> ObservedPod:
    return pod(progress=progress(**changes))


def test_an_unheard_commit_of_a_lost_attempt_is_settled_by_the_next_one() -> None:
    crashed = AttemptStatus(epoch=2, reason=Reason.OUT_OF_MEMORY, verdict=Verdict.OUT_OF_MEMORY, counted=True, claimed=True)
    before = status(attempts=(crashed, CLAIMED), failures=2, no_progress=0)
    had_committed = plan(observed(running(log=log(commit_epoch=2)), status=before)).status
    assert (had_committed.failures, had_committed.no_progress) == (1, 0)
    assert had_committed.attempts[0].committed is True
    had_not = plan(observed(running(log=log()), status=before)).status
    assert (had_not.failures, had_not.no_progress) == (2, 1)
    assert had_not.attempts[0].committed is False
    assert plan(observed(running(log=log()), status=had_not)).status.no_progress == 1


def test_a_new_commit_forgives_failures() -> None:
    before = status(failures=2, no_progress=2, last_commit=CommitStatus(slot=3, epoch=1, step=4, reason="interval"))
    after = plan(observed(running(log=log(head=9, commit_epoch=EPOCH)), status=before)).status
    assert (after.failures, after.no_progress) == (0, 0)
    assert after.last_commit is not None
    assert (after.last_commit.slot, after.log.head_slot) == (9, 9)


def test_an_older_report_takes_nothing_back() -> None:
    before = status(log={"headSlot": 20, "maxEpoch": 3}, last_commit=CommitStatus(slot=19, epoch=3, step=40, reason="interval"))
    after = plan(observed(running(log=log(head=9, commit_epoch=2)), status=before)).status
    assert (after.log, after.last_commit) == (before.log, before.last_commit)


# -- backoff -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [TrainerPhase.STARTING, TrainerPhase.CLAIMING, TrainerPhase.LOADING, TrainerPhase.RESTORING])
def test_a_trainer_that_has_not_restored_yet_takes_no_step_back(phase: TrainerPhase) -> None:
    loading = running(phase=phase, step=0, loss=None)
    after = plan(observed(loading, status=status(step=20, total_steps=60, percent=33, attempts=(CLAIMED,)))).status
    assert (after.step, after.percent, after.total_steps) == (20, 33, 60)


def test_an_interruption_after_the_first_step_goes_on_at_once() -> None:
    after = account(ended(10, log=log(), first_step_at=NOW - 10))
    assert (after.not_before, after.early_interruptions) == (0, 0)


def test_interruptions_before_the_first_step_wait_longer_each_time() -> None:
    waits = [account(early_interruptions=count).not_before - NOW for count in range(4)]
    assert waits == [10, 20, 40, 80]


def test_failures_wait_longer_each_time() -> None:
    waits = [account(ended(30, log=log()), **failures(count)).not_before - NOW for count in range(2)]
    assert waits == [10, 20]


@pytest.mark.parametrize(("count", "wait"), [(0, 0), (1, 10), (2, 20), (6, 320), (7, 360), (10**9, 360)])
def test_the_wait_doubles_up_to_six_minutes(count: int, wait: float) -> None:
    assert backoff.after_failures(count) == wait


# -- what took it away -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("silent", "reason"), [(True, Reason.NODE_UNREACHABLE), (False, Reason.POD_DELETED)])
def test_a_pod_that_kubernetes_deletes_from_a_silent_node_was_not_deleted_by_anybody(silent: bool, reason: Reason) -> None:
    answer = plan(observed(pod(PodState.TERMINATING, deleting=True, node_silent=silent), status=status(attempts=(CLAIMED,))))
    assert current_attempt(answer.status).reason is reason
    assert [event.reason for event in answer.events] == [reason]


@pytest.mark.parametrize("known", [Reason.SUSPENDED, Reason.INTERRUPTION_NOTICE, Reason.NODE_UNREACHABLE, Reason.POD_DELETED])
def test_what_was_seen_coming_is_the_reason(known: Reason) -> None:
    after = account(ended(10, log=log()), attempts=(CLAIMED.model_copy(update={"reason": known}),))
    assert current_attempt(after).reason is known


def test_a_commit_for_a_notice_tells_why_the_pod_was_deleted() -> None:
    view = log(head=9, commit_epoch=EPOCH, step=33, timings={"notice_to_commit": 3.21})
    assert view.last_commit is not None
    noticed = view.model_copy(update={"last_commit": view.last_commit.model_copy(update={"reason": "notice"})})
    after = account(ended(10, log=noticed), attempts=(CLAIMED.model_copy(update={"reason": Reason.POD_DELETED}),))
    entry = current_attempt(after)
    assert (entry.reason, entry.notice_to_commit_seconds, entry.committed) == (Reason.INTERRUPTION_NOTICE, 3.21, True)


def test_the_pool_of_a_lost_machine_is_avoided_and_a_suspended_ones_is_not() -> None:
    lost = account(pool="g5.xlarge/us-east-1a/spot")
    assert [p.pool for p in lost.pools] == ["g5.xlarge/us-east-1a/spot"]
    suspended = account(ended(10, log=log()), attempts=(CLAIMED.model_copy(update={"reason": Reason.SUSPENDED}),))
    assert (suspended.pools, suspended.not_before, suspended.interruptions) == ((), 0, 0)


def test_what_a_vanished_attempt_did_is_told_by_the_next_one() -> None:
    vanished = account(pool="g5.xlarge/us-east-1a/spot")
    assert current_attempt(vanished).reason is Reason.POD_VANISHED
    view = log(head=9, commit_epoch=EPOCH, step=33, timings={"notice_to_commit": 3.21})
    assert view.last_commit is not None
    noticed = view.model_copy(update={"max_epoch": 4, "last_commit": view.last_commit.model_copy(update={"reason": "notice"})})
    following = vanished.model_copy(update={"attempt": 4, "pod_uid": "pod-4"})
    after = plan(observed(pod(epoch=4, progress=progress(epoch=4, log=noticed)), status=following)).status
    entry = next(a for a in after.attempts if a.epoch == EPOCH)
    assert (entry.reason, entry.step_to, entry.committed, entry.notice_to_commit_seconds) == (Reason.INTERRUPTION_NOTICE, 33, True, 3.21)


def test_a_changed_compute_class_is_never_silent() -> None:
    said = termination(
        10, log=log(), exactness={"exact": False, "reason": "ComputeClassChanged", "message": "avx2 became avx512", "compute_class": "x"}
    )
    after = account(pod(PodState.ENDED, end=PodEnd(exit_code=10), termination=said))
    exact = condition(after, ConditionType.RESUME_EXACT)
    assert exact is not None
    assert (exact.status, exact.reason, exact.message) == ("False", Reason.COMPUTE_CLASS_CHANGED, "avx2 became avx512")


@pytest.mark.parametrize("reason", [Reason.MICRO_BATCH_CHANGED, Reason.STATE_DIFFERS])
def test_the_condition_has_the_trainers_own_reason_and_the_whole_proof(reason: Reason) -> None:
    proof = f"Not to the bit: microBatch 2 → 4 since step 10. {'x' * 900}"
    view = {"exact": False, "reason": reason.value, "message": proof, "compute_class": "cpu", "changed": ["microBatch 2 → 4"]}
    after = plan(observed(pod(progress=progress(exactness=view)))).status
    exact = condition(after, ConditionType.RESUME_EXACT)
    assert exact is not None
    assert (exact.status, exact.reason, exact.message) == ("False", reason, proof)
    # Whatever a newer trainer says, a lineage that is not exact is never shown as one.
    newer = plan(observed(pod(progress=progress(exactness=view | {"reason": "SomethingNew"})))).status
    told = condition(newer, ConditionType.RESUME_EXACT)
    assert told is not None
    assert (told.status, told.reason) == ("False", Reason.COMPUTE_CLASS_CHANGED)


@pytest.mark.parametrize(("seconds", "answer"), [(3.0, "True"), (99.0, "True"), (101.0, "False")])
def test_a_commit_that_does_not_fit_a_notice_is_told_before_it_matters(seconds: float, answer: str) -> None:
    after = plan(observed(running(checkpoint_seconds=seconds))).status
    fits = condition(after, ConditionType.CHECKPOINT_FITS_NOTICE)
    assert fits is not None
    assert fits.status == answer
    measured_again = plan(observed(running(checkpoint_seconds=seconds + 0.4), status=after, now=NOW + 60)).status
    assert measured_again == after
