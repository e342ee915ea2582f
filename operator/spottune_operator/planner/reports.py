"""Take over into the status what pods and trainers report of themselves."""

from __future__ import annotations

import math

from spottune_contract.progress import CommitView, LogView, Progress, Termination, TrainerPhase
from spottune_operator.api.reasons import ConditionType, Phase, Reason
from spottune_operator.api.v1alpha1 import AttemptStatus, CommitStatus, FineTuneJobStatus
from spottune_operator.planner import budget, ledger, pools
from spottune_operator.planner.statuses import change, clip, current_attempt, instant, with_attempt, with_condition
from spottune_operator.planner.types import Observed, ObservedPod, PodState, Settings

AT_WORK = frozenset({TrainerPhase.TRAINING, TrainerPhase.EVALUATING, TrainerPhase.SAVING, TrainerPhase.EXPORTING, TrainerPhase.DONE})
_EXACTNESS = {
    reason.value: reason
    for reason in (
        Reason.FIRST_ATTEMPT,
        Reason.STATE_VERIFIED,
        Reason.MICRO_BATCH_CHANGED,
        Reason.COMPUTE_CLASS_CHANGED,
        Reason.STATE_DIFFERS,
    )
}
_TAKEN_AWAY = frozenset({Reason.POD_DELETED, Reason.POD_VANISHED, Reason.INTERRUPTED})
_PROGRESS_FIELDS = ("step", "total_steps", "percent", "loss", "eval_loss", "eta", "progress_at", "last_commit", "log")
DETECTION_SECONDS = 5.0
"""From the notice until the trainer has heard of it (design: at most 5 s)."""


def taken_over(observed: Observed, status: FineTuneJobStatus, pod: ObservedPod | None) -> FineTuneJobStatus:
    """`status` plus what the current pod says, and what any pod says of the log."""
    if observed.spec is not None and status.observed_generation != observed.generation:
        status = change(status, observed_generation=observed.generation)
    for other in observed.pods:
        if other is not pod and other.termination is not None and other.termination.log is not None:
            status = _log_heard(status, other.termination.log)
        if other is not pod and other.state is PodState.ENDED:
            status = ledger.left(status, other.epoch, other.ended_at)
    if pod is None:
        return status
    status = _pod_seen(observed, status, pod)
    report: Progress | Termination | None = pod.termination or pod.progress
    if report is None:
        return status
    if report.log is not None:
        status = _log_heard(status, report.log)
        if report.log.max_epoch == pod.epoch:
            status = budget.settled(with_attempt(status, claimed=True), pod.epoch)
    status = ledger.resumed(_steps_heard(observed, status, report), pod, report)
    return _exactness_heard(observed, status, report)


def phase_of(pod: ObservedPod, before: Phase) -> Phase:
    """What a job whose current pod is alive is doing. A trainer that was not asked yet (the operator has just started) goes on."""
    if pod.state is PodState.TERMINATING:
        return Phase.DRAINING
    at_work = before is Phase.RUNNING if pod.progress is None else pod.progress.phase in AT_WORK
    return Phase.RUNNING if pod.state is PodState.RUNNING and at_work else Phase.STARTING


def first_step_reached(pod: ObservedPod | None, status: FineTuneJobStatus) -> bool:
    """Whether the attempt finished an optimizer step, as far as anybody told."""
    reports = [r for r in (pod.termination, pod.progress) if r is not None] if pod is not None else []
    entry = current_attempt(status)
    moved = entry.step_to is not None and entry.step_to > (entry.step_from or 0)
    committed = status.last_commit is not None and status.last_commit.epoch == status.attempt
    return moved or committed or any(report.first_step_at > 0 for report in reports)


def throttled(before: FineTuneJobStatus, after: FineTuneJobStatus, now: float, interval: float) -> FineTuneJobStatus:
    """`after`, unless the steps alone have moved and were written a moment ago: then `before`."""
    due = not 0 <= now - before.progress_at < interval
    if due or before == after:
        return after
    same = {name: getattr(before, name) for name in _PROGRESS_FIELDS}
    entries = tuple(
        new if old is None else new.model_copy(update={"step_to": old.step_to})
        for new, old in ((a, next((b for b in before.attempts if b.epoch == a.epoch), None)) for a in after.attempts)
    )
    return before if change(after, attempts=entries, **same) == before else after


def commit_window(settings: Settings) -> float:
    """Seconds that a notice leaves for micro-step, snapshot and upload."""
    return min(float(settings.pod_grace), settings.notice_window - DETECTION_SECONDS - settings.notice_margin)


def _pod_seen(observed: Observed, status: FineTuneJobStatus, pod: ObservedPod) -> FineTuneJobStatus:
    status = change(
        status,
        pod=pod.name,
        pod_uid=pod.uid,
        node=pod.node or status.node,
        zone=pod.zone or status.zone,
        first_image_digest=status.first_image_digest or pod.image,
    )
    entry = current_attempt(status)
    status = with_attempt(
        status,
        pod=pod.name,
        node=pod.node or entry.node,
        pool=pod.pool or entry.pool,
        zone=pod.zone or entry.zone,
        running_at=entry.running_at or instant(pod.running_at),
    )
    if pod.node:
        status = change(status, pools=pools.had_capacity(status.pools, pod.pool))
        status = _answer(observed, status, ConditionType.CAPACITY_AVAILABLE, Reason.SCHEDULED, f"The pod was placed on node {pod.node}.")
    if pod.running_at > 0:
        status = _answer(observed, status, ConditionType.STARTED, Reason.TRAINER_STARTED, "The trainer's container was started.")
    return status


def _log_heard(status: FineTuneJobStatus, log: LogView) -> FineTuneJobStatus:
    highest = {"head_slot": max(status.log.head_slot, log.head_slot), "max_epoch": max(status.log.max_epoch, log.max_epoch)}
    status = change(status, log=status.log.model_copy(update=highest))
    commit = log.last_commit
    if commit is None or (status.last_commit is not None and commit.slot <= status.last_commit.slot):
        return status
    heard = CommitStatus(
        slot=commit.slot,
        epoch=commit.epoch,
        step=commit.step,
        reason=clip(commit.reason, 64),
        at=clip(commit.at, 64),
        digests={clip(name, 63): clip(digest, 64) for name, digest in sorted(commit.digests.items())[:8]},
    )
    status = change(status, attempts=tuple(_credited(a, commit) if a.epoch == commit.epoch else a for a in status.attempts))
    return budget.commit_heard(change(status, last_commit=heard), commit.epoch)


def _credited(entry: AttemptStatus, commit: CommitView) -> AttemptStatus:
    """What the newest commit tells of the attempt that made it, even when its pod was gone before anybody could ask."""
    known: dict[str, object] = {"step_to": max(entry.step_to or 0, commit.step)}
    if "notice_to_commit" in commit.timings:
        known["notice_to_commit_seconds"] = round(commit.timings["notice_to_commit"], 3)
    if commit.reason == "notice" and entry.reason in _TAKEN_AWAY:
        # The node's agent was faster than any other source: it told the trainer and deleted the pod.
        known["reason"] = Reason.INTERRUPTION_NOTICE
    return ledger.committed(entry.model_copy(update=known), commit)


def _steps_heard(observed: Observed, status: FineTuneJobStatus, report: Progress | Termination) -> FineTuneJobStatus:
    if report.total_steps <= 0:
        # The trainer has not got as far as its data: what an earlier attempt told is still the best that is known.
        return status
    if isinstance(report, Progress) and report.phase not in AT_WORK:
        # Step 0 of a trainer that has not restored yet is no step back.
        return change(status, total_steps=report.total_steps)
    entry = current_attempt(status)
    status = with_attempt(
        status,
        step_from=entry.step_from if report.resumed_from_step is None else report.resumed_from_step,
        step_to=max(report.step, entry.step_to or 0),
    )
    loss, eval_loss = _rounded(report.loss, status.loss), _rounded(report.eval_loss, status.eval_loss)
    if (status.step, status.total_steps, status.loss, status.eval_loss) == (report.step, report.total_steps, loss, eval_loss):
        return status
    seconds = report.step_seconds if isinstance(report, Progress) else 0.0
    left = max(0, report.total_steps - report.step)
    return change(
        status,
        step=report.step,
        total_steps=report.total_steps,
        percent=min(100, 100 * report.step // report.total_steps),
        loss=loss,
        eval_loss=eval_loss,
        eta=instant(observed.now + left * seconds) if seconds > 0 and left else "",
        progress_at=observed.now,
    )


def _rounded(value: float | None, known: float | None) -> float | None:
    """For people: four decimals. A loss that is not finite cannot be written as JSON and is left to the trainer's verdict."""
    return round(value, 4) if value is not None and math.isfinite(value) else known


def _exactness_heard(observed: Observed, status: FineTuneJobStatus, report: Progress | Termination) -> FineTuneJobStatus:
    view = report.exactness
    if view is not None:
        if not status.first_compute_class:
            status = change(status, first_compute_class=clip(view.compute_class, 512))
        reason = _EXACTNESS.get(view.reason, Reason.STATE_VERIFIED if view.exact else Reason.COMPUTE_CLASS_CHANGED)
        status = _answer(observed, status, ConditionType.RESUME_EXACT, reason, view.message, good=view.exact)
    if isinstance(report, Progress) and report.checkpoint_seconds > 0:
        window = commit_window(observed.settings)
        fits = report.checkpoint_seconds <= window
        message = f"A commit takes about {report.checkpoint_seconds:.1f} s of the {window:.0f} s that an interruption notice leaves."
        if not fits:
            message += " Make it fit: a smaller training.microBatchSize, a lower method.rank, or a bucket that is nearer."
        reason = Reason.MEASURED if fits else Reason.TOO_SLOW
        status = _answer(observed, status, ConditionType.CHECKPOINT_FITS_NOTICE, reason, message, good=fits, keep_message=True)
    return status


def _answer(
    observed: Observed,
    status: FineTuneJobStatus,
    kind: ConditionType,
    reason: Reason,
    message: str,
    *,
    good: bool = True,
    keep_message: bool = False,
) -> FineTuneJobStatus:
    return with_condition(
        status,
        kind,
        "True" if good else "False",
        reason,
        message,
        now=observed.now,
        generation=observed.generation,
        keep_message=keep_message,
    )
