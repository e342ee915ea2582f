"""The events that tell how an attempt ends, in sentences."""

from __future__ import annotations

from spottune_operator.api.reasons import Phase, Reason
from spottune_operator.api.v1alpha1 import FineTuneJobStatus
from spottune_operator.planner.statuses import clip, current_attempt
from spottune_operator.planner.types import EventSpec


def ended(status: FineTuneJobStatus) -> EventSpec:
    """How the current attempt ended, and what comes next."""
    entry = current_attempt(status)
    step = status.last_commit.step if status.last_commit is not None else 0
    story = f"Attempt {entry.epoch} on node {entry.node or '?'} (pool {entry.pool or '?'}) ended at step {entry.step_to or 0}: {entry.reason.value}."
    detail = f" {entry.message.rstrip('.')}." if entry.message else ""
    after = {
        Phase.SUCCEEDED: f" The adapter is at {status.output}." if status.output else " The job is done.",
        Phase.FAILED: " The job has failed.",
    }.get(status.phase, f" The newest commit heard of is of step {step}; the job goes on from there.")
    good = status.phase is Phase.SUCCEEDED
    return EventSpec("Normal" if good else "Warning", Reason.SUCCEEDED if good else entry.reason, clip(story + detail + after, 1000))


def draining(status: FineTuneJobStatus, *, followed: bool = False) -> EventSpec:
    """Why the current attempt is asked to end."""
    entry = current_attempt(status)
    if entry.reason is Reason.NODE_UNREACHABLE:
        silent = f"Node {status.node} is silent: attempt {entry.epoch} is replaced soon, and whatever it still writes is void."
        return EventSpec("Warning", entry.reason, silent)
    why = {
        Reason.INTERRUPTION_NOTICE: f"Node {status.node} goes away (told by {status.notice.source})"
        if status.notice
        else "The node goes away",
        Reason.REBALANCE_RECOMMENDED: f"Node {status.node} may go away soon, and spec.onRebalance is Move",
        Reason.SUSPENDED: "The job is suspended",
        Reason.CANCELLED: "The job is cancelled",
        Reason.MAX_DURATION: "Trainers of this job have run for spec.maxDuration",
    }.get(entry.reason, "The pod was deleted or evicted")
    comes = " The next one starts already, and takes over then." if followed else ""
    kind = "Normal" if entry.reason in (Reason.SUSPENDED, Reason.CANCELLED) else "Warning"
    return EventSpec(kind, entry.reason, f"{why}: attempt {entry.epoch} commits its state and ends.{comes}")  # type: ignore[arg-type]
