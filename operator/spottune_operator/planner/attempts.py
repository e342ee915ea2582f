"""The beginning and the end of an attempt, as steps on the status."""

from __future__ import annotations

from dataclasses import replace

from spottune_contract.exitcodes import ExitCode, PodEnd, Verdict, verdict
from spottune_contract.labels import pod_name
from spottune_contract.layout import job_location
from spottune_contract.progress import Termination
from spottune_operator.api.reasons import WISHES, ConditionType, Phase, Reason
from spottune_operator.api.v1alpha1 import FineTuneJobStatus, HandoverStatus
from spottune_operator.planner import backoff, budget, ledger, pools
from spottune_operator.planner.reports import first_step_reached
from spottune_operator.planner.situation import Situation, next_epoch
from spottune_operator.planner.statuses import (
    ATTEMPT_MESSAGE_LIMIT,
    Answer,
    change,
    clip,
    current_attempt,
    instant,
    with_attempt,
    with_condition,
)
from spottune_operator.planner.types import CreatePod, ObservedPod

_KNOWN_BEFORE = WISHES | {
    Reason.INTERRUPTION_NOTICE,
    Reason.REBALANCE_RECOMMENDED,
    Reason.NODE_UNREACHABLE,
    Reason.POD_DELETED,
    Reason.INTERRUPTED,
}
"""Reasons that were recorded while the pod was going: they say more than its end."""
_MACHINE_LEFT = frozenset(
    {
        Reason.INTERRUPTION_NOTICE,
        Reason.REBALANCE_RECOMMENDED,
        Reason.POD_VANISHED,
        Reason.POD_STUCK,
        Reason.NODE_UNREACHABLE,
        Reason.INTERRUPTED,
        Reason.POD_DELETED,
    }
)
TRY_AGAIN = "set spec.retryToken to another word: the job then goes on from its newest commit"
FALSE_SUCCESS = "The container ended with code 0 but left no word of what it did: podOverrides.image (or the chart's trainer.image) is no SpotTune trainer"


def begun(situation: Situation, pool: str) -> FineTuneJobStatus:
    """The status with the next attempt persisted: from here on its pod may exist."""
    epoch = next_epoch(situation)
    job = situation.observed
    status = change(
        situation.status,
        attempt=epoch,
        # Epochs that were jumped over never had a pod of ours: nothing of them is left to be accounted.
        accounted=epoch - 1,
        phase=Phase.STARTING,
        pool=pool,
        pod=pod_name(job.name, epoch),
        pod_uid="",
        node="",
        zone="",
        eta="",
        not_before=0.0,
        notice=None,
        handover=situation.status.handover if _from(situation.status, epoch) else None,
    )
    if job.spec is not None:
        status = change(status, retry_token=job.spec.retry_token)
        location = str(job_location(job.spec.checkpoint.storage, job.settings.cluster, job.namespace, job.uid))
        status = change(status, log=status.log.model_copy(update={"location": location}))
    status = with_attempt(
        status,
        generation=job.generation,
        pod=pod_name(job.name, epoch),
        pool=pool,
        reason=Reason.ATTEMPT_STARTED,
        started_at=instant(situation.now),
    )
    for kind in (ConditionType.CAPACITY_AVAILABLE, ConditionType.STARTED):
        status = answered(situation, status, kind, "Unknown", Reason.ATTEMPT_STARTED, f"Attempt {epoch} was started.")
    return status


def creation(situation: Situation, status: FineTuneJobStatus) -> CreatePod:
    handover = status.handover if _from(status, status.attempt) else None
    return CreatePod(
        name=pod_name(situation.observed.name, status.attempt),
        epoch=status.attempt,
        rank=0,
        pool=status.pool,
        min_slot=status.log.head_slot + 1,
        image_digest=status.first_image_digest,
        predecessor=handover.epoch if handover is not None else 0,
        predecessor_until=handover.until if handover is not None else 0.0,
    )


def _from(status: FineTuneJobStatus, epoch: int) -> bool:
    """Whether attempt `epoch` takes over from one that may still commit."""
    return status.handover is not None and status.handover.epoch == epoch - 1


def handed_over(situation: Situation, pod: ObservedPod, reason: Reason) -> FineTuneJobStatus:
    """The status with the current attempt counted as interrupted although its pod still commits; its last word is in the log."""
    known = replace(situation, status=with_attempt(situation.status, reason=reason))
    status = accounted(known, None, reason, leaving=True)
    return change(status, handover=HandoverStatus(epoch=pod.epoch, until=pod.ends_by))


def set_aside(situation: Situation, reason: Reason, message: str) -> FineTuneJobStatus:
    """The attempt ends without a verdict: it never ran, or was not to run. Free of any budget."""
    status = with_attempt(
        situation.status,
        reason=reason,
        message=clip(message, ATTEMPT_MESSAGE_LIMIT),
        committed=False,
        ended_at=instant(situation.now),
    )
    return change(status, accounted=status.attempt, phase=Phase.ACCOUNTING, notice=None)


def accounted(situation: Situation, pod: ObservedPod | None, lost: Reason, *, leaving: bool = False) -> FineTuneJobStatus:
    """The status with the end of the current attempt recorded, once: verdict, budgets, backoff, and what follows.

    `pod` is None when the pod object is gone, or is still `leaving`; `lost` names what happened if neither the trainer nor the attempt's
    entry knows.
    """
    end, word, judged = _judged(pod)
    gone = (pod.ended_at if pod is not None else 0.0) or situation.now
    active = budget.active_seconds(situation.status, gone)
    entry = current_attempt(situation.status)
    reason = _reason(judged, entry.reason, lost)
    committed: bool | None = entry.committed
    if committed is None and (word is not None or not (entry.claimed or entry.running_at)):
        committed = False
    counted = budget.counts(judged, end, claimed=entry.claimed)
    message = (
        word.message
        if word is not None
        else (FALSE_SUCCESS if end.exit_code == ExitCode.DONE else pod.last_words if pod is not None else "")
    )
    status = with_attempt(
        situation.status,
        verdict=judged,
        reason=reason,
        message=clip(message, ATTEMPT_MESSAGE_LIMIT),
        committed=committed,
        counted=counted,
        ended_at=instant(situation.now),
    )
    if judged is Verdict.INTERRUPTED and entry.running_at and reason not in WISHES:
        notice = situation.status.notice
        status = ledger.leaving(status, notice, gone) if leaving else ledger.ended(status, notice, word, gone)
    status = change(status, accounted=status.attempt, phase=Phase.ACCOUNTING, notice=None, handover=None, eta="", active_seconds=active)
    if judged is Verdict.SUCCEEDED:
        return _succeeded(situation, status, word.output if word is not None else "")
    if judged.permanent:
        return failed(situation, status, reason, message or f"The trainer ended with {judged.value}.")
    return _goes_on(
        situation, status, judged, reason, message, counted=counted, started=bool(pod and pod.running_at) or bool(entry.running_at)
    )


def failed(situation: Situation, status: FineTuneJobStatus, reason: Reason, message: str) -> FineTuneJobStatus:
    """The job is over, and this is why and what to do."""
    status = change(status, phase=Phase.FAILED, accounted=status.attempt, eta="", not_before=0.0)
    return answered(situation, status, ConditionType.COMPLETE, "False", reason, message)


def answered(
    situation: Situation, status: FineTuneJobStatus, kind: ConditionType, answer: Answer, reason: Reason, message: str
) -> FineTuneJobStatus:
    return with_condition(status, kind, answer, reason, message, now=situation.now, generation=situation.observed.generation)


def _judged(pod: ObservedPod | None) -> tuple[PodEnd, Termination | None, Verdict]:
    if pod is None:
        end = PodEnd(vanished=True)
        return end, None, verdict(end)
    judged = verdict(pod.end)
    if judged is Verdict.SUCCEEDED and pod.termination is None:
        judged = Verdict.FAILED
    return pod.end, pod.termination, judged


def _reason(judged: Verdict, known: Reason, lost: Reason) -> Reason:
    if judged is not Verdict.INTERRUPTED:
        return Reason(judged.value)
    return known if known in _KNOWN_BEFORE else lost


def _succeeded(situation: Situation, status: FineTuneJobStatus, output: str) -> FineTuneJobStatus:
    status = change(status, phase=Phase.SUCCEEDED, output=clip(output, 1024), percent=100, failures=0, no_progress=0)
    where = f" The adapter is at {status.output}." if status.output else ""
    message = f"Finished after {status.attempt} attempts, {status.interruptions} of them interrupted.{where}"
    return answered(situation, status, ConditionType.COMPLETE, "True", Reason.SUCCEEDED, message)


def _goes_on(
    situation: Situation,
    status: FineTuneJobStatus,
    judged: Verdict,
    reason: Reason,
    message: str,
    *,
    counted: bool,
    started: bool,
) -> FineTuneJobStatus:
    """Budgets and backoff of an end that another attempt may follow."""
    early = 0 if first_step_reached(situation.current, status) else status.early_interruptions + 1
    stale = judged in (Verdict.FENCED, Verdict.EPOCH_STALE)
    if judged is Verdict.INTERRUPTED and started and reason not in WISHES:
        status = change(status, interruptions=status.interruptions + 1)
    if reason in _MACHINE_LEFT:
        status = change(status, pools=pools.interrupted(status.pools, status.pool, situation.now))
    if counted:
        status = budget.spent(status, committed=current_attempt(status).committed)
        wait = backoff.after_failures(status.failures)
    else:
        # The first attempt that meets a newer epoch in the log goes on at once with a higher one.
        wait = backoff.after_failures(early - stale)
    if reason in WISHES:
        early, wait = 0, 0.0
    status = change(status, early_interruptions=early, not_before=situation.now + wait if wait else 0.0)
    spec = situation.observed.spec
    limit = budget.exhausted(status, spec.limits) if spec is not None else None
    if limit is None:
        return status
    last = f" The last one said: {message}" if message else ""
    if limit is Reason.NO_PROGRESS:
        text = f"{status.no_progress} attempts in a row ended without a new commit ({reason.value})."
    else:
        text = f"{status.failures} attempts failed since the last new commit ({reason.value})."
    return failed(situation, status, limit, f"{text}{last} Look at status.attempts, mend the cause and {TRY_AGAIN}.")
