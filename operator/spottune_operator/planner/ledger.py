"""What an interruption took, point by point: kept in the entry of the attempt that it ended until the next one does useful work.

The points come from three clocks (the source's, the node's, ours), which the machines keep close together; a point that seems to lie
before the beginning is shown as 0.
"""

from __future__ import annotations

from spottune_contract.progress import CommitView, Progress, Termination
from spottune_operator.api.reasons import WISHES
from spottune_operator.api.v1alpha1 import AttemptStatus, FineTuneJobStatus, InterruptionStatus, NoticeStatus
from spottune_operator.planner.statuses import at, change, clip, current_attempt, with_attempt
from spottune_operator.planner.types import ObservedPod

NO_NOTICE = "none"
"""The source of an interruption that nobody announced."""
DELETION = "deletion"
"""The source of one of which nothing was heard but that its pod was asked to end."""
POINTS = ("signal", "step_end", "snapshot", "durable", "gone", "placed", "started", "loaded", "first_step")
"""Fields of `InterruptionStatus` in the order in which they should come to pass."""
_ENDING = frozenset({"notice", "sigterm"})
_SOURCES_KEPT = 4


def committed(entry: AttemptStatus, commit: CommitView) -> AttemptStatus:
    """What the trainer measured while it committed for its end. The record keeps it, so a pod that is gone tells it, too."""
    took = commit.timings.get("notice_to_commit")
    durable = at(commit.at)
    if took is None or not durable or commit.reason not in _ENDING or entry.reason in WISHES:
        return entry
    signal = durable - took
    ledger = _beginning(entry.interruption, signal, commit.reason)
    known: dict[str, float] = {"signal": signal, "durable": durable}
    if "notice_to_snapshot" in commit.timings:
        known["step_end"] = signal + commit.timings["notice_to_snapshot"]
        if "snapshot" in commit.timings:
            known["snapshot"] = known["step_end"] + commit.timings["snapshot"]
    return entry.model_copy(update={"interruption": _with(ledger, **known)})


def ended(status: FineTuneJobStatus, notice: NoticeStatus | None, word: Termination | None, gone: float) -> FineTuneJobStatus:
    """The current attempt was interrupted, its pod `gone` (wall clock seconds). `notice`: what we had heard; `word`: the trainer's last."""
    ledger = _announced(current_attempt(status).interruption, notice)
    if word is not None and word.notice_at:
        ledger = _heard(_beginning(ledger, word.notice_at, word.notice_source), word.notice_source, word.notice_at)
        ledger = _with(ledger, signal=word.notice_at)
    return with_attempt(status, interruption=_with(_beginning(ledger, gone, NO_NOTICE), gone=gone))


def leaving(status: FineTuneJobStatus, notice: NoticeStatus | None, now: float) -> FineTuneJobStatus:
    """The current attempt was asked to end, and is followed before its pod has gone."""
    return with_attempt(status, interruption=_beginning(_announced(current_attempt(status).interruption, notice), now, DELETION))


def left(status: FineTuneJobStatus, epoch: int, gone: float) -> FineTuneJobStatus:
    """The pod of attempt `epoch`, which was followed before it had gone, ended at `gone` (wall clock seconds)."""
    entry = next((a for a in status.attempts if a.epoch == epoch), None)
    if entry is None or entry.interruption is None or entry.interruption.gone is not None or not gone:
        return status
    known = entry.model_copy(update={"interruption": _with(entry.interruption, gone=gone)})
    return change(status, attempts=tuple(known if a.epoch == epoch else a for a in status.attempts))


def resumed(status: FineTuneJobStatus, pod: ObservedPod, report: Progress | Termination) -> FineTuneJobStatus:
    """The current attempt has finished its first step: the interruptions before it are over."""
    if not report.first_step_at or not any(_open(entry, pod.epoch) for entry in status.attempts):
        return status
    known = {"placed": pod.placed_at, "started": pod.running_at, "loaded": report.loaded_at, "first_step": report.first_step_at}
    came = {name: when for name, when in known.items() if when}
    return change(status, attempts=tuple(_over(a, came, report) if _open(a, pod.epoch) else a for a in status.attempts))


def newly_over(before: FineTuneJobStatus, after: FineTuneJobStatus) -> tuple[InterruptionStatus, ...]:
    """Interruptions after which useful work is done again, as `after` knows and `before` did not."""
    known = {a.epoch for a in before.attempts if a.interruption is not None and a.interruption.first_step is not None}
    return tuple(
        a.interruption
        for a in after.attempts
        if a.interruption is not None and a.interruption.first_step is not None and a.epoch not in known
    )


def told(ledger: InterruptionStatus) -> str:
    """For people, in one line."""
    names = {
        "signal": "trainer told",
        "durable": "state committed",
        "gone": "pod gone",
        "placed": "new node",
        "loaded": "model loaded",
        "first_step": "first step",
    }
    parts = [f"{words} {value:.1f} s" for name, words in names.items() if (value := getattr(ledger, name)) is not None]
    beginning = "its loss was seen (nobody had announced it)" if ledger.source == NO_NOTICE else f"the notice ({ledger.source})"
    redone = f" {ledger.steps_redone} steps had to be done again." if ledger.steps_redone is not None else ""
    return f"after {beginning}: {', '.join(parts)}.{redone}"


def _announced(ledger: InterruptionStatus | None, notice: NoticeStatus | None) -> InterruptionStatus | None:
    if notice is None or notice.kind != "Interruption" or not notice.heard_at:
        return ledger
    return _heard(_beginning(ledger, notice.announced_at or notice.heard_at, notice.source), notice.source, notice.heard_at)


def _open(entry: AttemptStatus, epoch: int) -> bool:
    return entry.epoch < epoch and entry.interruption is not None and entry.interruption.first_step is None


def _over(entry: AttemptStatus, came: dict[str, float], report: Progress | Termination) -> AttemptStatus:
    assert entry.interruption is not None
    ledger = _with(entry.interruption, **came)
    if entry.step_to is not None and report.resumed_from_step is not None:
        ledger = ledger.model_copy(update={"steps_redone": max(0, entry.step_to - report.resumed_from_step)})
    return entry.model_copy(update={"interruption": ledger})


def _beginning(ledger: InterruptionStatus | None, when: float, source: str) -> InterruptionStatus:
    """The ledger with the earliest beginning that anybody told."""
    if ledger is None:
        return InterruptionStatus(at=round(when, 3), source=clip(source, 64))
    if when >= ledger.at:
        return ledger
    later = ledger.at - when
    moved = {name: round(value + later, 3) for name in POINTS if (value := getattr(ledger, name)) is not None}
    heard = {name: round(value + later, 3) for name, value in ledger.heard.items()}
    return ledger.model_copy(update={"at": round(when, 3), "source": clip(source, 64), "heard": heard, **moved})


def _with(ledger: InterruptionStatus, **came: float) -> InterruptionStatus:
    return ledger.model_copy(update={name: _since(ledger, when) for name, when in came.items()})


def _heard(ledger: InterruptionStatus, source: str, when: float) -> InterruptionStatus:
    if source in ledger.heard or len(ledger.heard) >= _SOURCES_KEPT:
        return ledger
    return ledger.model_copy(update={"heard": {**ledger.heard, clip(source, 64): _since(ledger, when)}})


def _since(ledger: InterruptionStatus, when: float) -> float:
    return round(max(0.0, when - ledger.at), 3)
