"""Which ends of attempts spend which budget, and what a newly heard commit gives back.

Interruptions, waiting, and attempts that were fenced or came too late never spend anything. An attempt counts if it claimed the
log, or if its container crashed by itself; a trainer that says `TRANSIENT` before its claim (the store was away) does not.
"""

from __future__ import annotations

from spottune_contract.exitcodes import ExitCode, PodEnd, Verdict
from spottune_operator.api.reasons import Reason
from spottune_operator.api.v1alpha1 import AttemptStatus, FineTuneJobStatus, LimitsSpec
from spottune_operator.planner.statuses import at, change, current_attempt


def counts(verdict: Verdict, end: PodEnd, *, claimed: bool) -> bool:
    """Whether the end of this attempt spends the failure budget."""
    if not verdict.spends_failure_budget:
        return False
    return claimed or (end.exit_code is not None and end.exit_code != ExitCode.TRANSIENT)


def spent(status: FineTuneJobStatus, *, committed: bool | None) -> FineTuneJobStatus:
    """One more failed attempt. That it may have committed unheard (None) counts as progress until the next one tells."""
    return change(status, failures=status.failures + 1, no_progress=status.no_progress + (committed is False))


def commit_heard(status: FineTuneJobStatus, epoch: int) -> FineTuneJobStatus:
    """A new commit of attempt `epoch` was reported: failures before it are forgiven, those after it stay counted."""
    since = [a for a in status.attempts if _failed(a)]
    return change(
        status,
        failures=min(status.failures, sum(a.epoch >= epoch for a in since)),
        no_progress=min(status.no_progress, sum(a.epoch > epoch and a.committed is False for a in since)),
        attempts=tuple(a.model_copy(update={"committed": True}) if a.epoch == epoch else a for a in status.attempts),
    )


def settled(status: FineTuneJobStatus, epoch: int) -> FineTuneJobStatus:
    """Attempt `epoch` has read the log: what earlier attempts had committed unheard would be known by now, so they had not."""
    open_ones = [a for a in status.attempts if a.epoch < epoch and a.committed is None]
    if not open_ones:
        return status
    closed = {a.epoch for a in open_ones}
    return change(
        status,
        no_progress=status.no_progress + sum(_failed(a) for a in open_ones),
        attempts=tuple(a.model_copy(update={"committed": False}) if a.epoch in closed else a for a in status.attempts),
    )


def active_seconds(status: FineTuneJobStatus, until: float) -> float:
    """How long trainers of this job have run, that of the current attempt until `until`."""
    began = at(current_attempt(status).running_at) if status.attempt > status.accounted else 0.0
    return status.active_seconds + (max(0.0, until - began) if began else 0.0)


def retried(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """A fresh start in all that limits a job. What was learned of its log, its image and its attempts stays."""
    fresh: dict[str, object] = {"failures": 0, "no_progress": 0, "early_interruptions": 0, "active_seconds": 0.0, "not_before": 0.0}
    return change(status, **fresh, pools=())


def exhausted(status: FineTuneJobStatus, limits: LimitsSpec) -> Reason | None:
    """The limit that is reached, if one is."""
    if status.no_progress >= limits.no_progress:
        return Reason.NO_PROGRESS
    if status.failures >= limits.failures:
        return Reason.FAILURE_LIMIT
    return None


def _failed(attempt: AttemptStatus) -> bool:
    return attempt.verdict is not None and attempt.verdict.counts_as_no_progress and attempt.counted
