"""Small pure steps on a status: timestamps, conditions, the current attempt's entry, the size limit."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal

from spottune_operator.api.reasons import ConditionType, Reason
from spottune_operator.api.v1alpha1 import ATTEMPTS_KEPT, MESSAGE_LIMIT, STATUS_LIMIT, AttemptStatus, ConditionStatus, FineTuneJobStatus

Answer = Literal["True", "False", "Unknown"]
ATTEMPT_MESSAGE_LIMIT = 256


def instant(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds; empty for 0 or a time that no calendar knows."""
    if not 0 < seconds < 32_503_680_000:
        return ""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def at(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time; 0 if it is none."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0


def clip(text: str, limit: int) -> str:
    """`text` on one line, without control characters, of at most `limit` characters."""
    plain = text.isprintable() and "  " not in text and text == text.strip()
    line = text if plain else " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def change(status: FineTuneJobStatus, **update: object) -> FineTuneJobStatus:
    return status.model_copy(update=update)


def condition(status: FineTuneJobStatus, kind: ConditionType) -> ConditionStatus | None:
    return next((c for c in status.conditions if c.type is kind), None)


def with_condition(
    status: FineTuneJobStatus,
    kind: ConditionType,
    answer: Answer,
    reason: Reason,
    message: str,
    *,
    now: float,
    generation: int,
    keep_message: bool = False,
) -> FineTuneJobStatus:
    """The status with one condition set. `keep_message`: a new text alone (a measured number, say) is no news."""
    old = condition(status, kind)
    text = clip(message, MESSAGE_LIMIT)
    if old is not None and (old.status, old.reason) == (answer, reason) and (keep_message or old.message == text):
        return status
    since = old.last_transition_time if old is not None and old.status == answer else instant(now)
    new = ConditionStatus(type=kind, status=answer, reason=reason, message=text, last_transition_time=since, observed_generation=generation)
    order = list(ConditionType)
    kept = [c for c in status.conditions if c.type is not kind]
    return change(status, conditions=tuple(sorted([*kept, new], key=lambda c: order.index(c.type))))


def not_handled(status: FineTuneJobStatus, message: str, *, now: float) -> FineTuneJobStatus:
    """The status of a job over which the operator threw."""
    generation = status.observed_generation
    return fit(with_condition(status, ConditionType.HANDLED, "False", Reason.INTERNAL, message, now=now, generation=generation))


def handled(status: FineTuneJobStatus, *, now: float) -> FineTuneJobStatus:
    """The status of a job that came to rest: if the operator threw over it before, that is over."""
    known = condition(status, ConditionType.HANDLED)
    if known is None or known.status == "True":
        return status
    text, generation = "The operator can handle the job again.", status.observed_generation
    return with_condition(status, ConditionType.HANDLED, "True", Reason.RECOVERED, text, now=now, generation=generation)


def current_attempt(status: FineTuneJobStatus) -> AttemptStatus:
    """The entry of the attempt `status.attempt`; a fresh one if it was lost."""
    found = next((a for a in reversed(status.attempts) if a.epoch == status.attempt), None)
    return found or AttemptStatus(epoch=status.attempt, reason=Reason.ATTEMPT_STARTED)


def with_attempt(status: FineTuneJobStatus, **update: object) -> FineTuneJobStatus:
    """The status with the entry of its current attempt changed."""
    entry = current_attempt(status).model_copy(update=update)
    others = [a for a in status.attempts if a.epoch != entry.epoch]
    kept = sorted([*others, entry], key=lambda a: a.epoch)[-ATTEMPTS_KEPT:]
    return change(status, attempts=tuple(kept))


def size(status: FineTuneJobStatus) -> int:
    """Bytes as JSON: an upper bound, because everything outside ASCII is counted as escaped."""
    return len(json.dumps(status.document()))


def fit(status: FineTuneJobStatus, limit: int = STATUS_LIMIT) -> FineTuneJobStatus:
    """The status within its size limit: first texts get shorter, then what is oldest goes. Counters and identities always stay."""
    if size(status) <= limit:
        return status
    for texts in (512, 160, 64, 0):
        status = change(
            status,
            conditions=tuple(_shorter(c, "message", max(texts, 64)) for c in status.conditions),
            attempts=tuple(_shorter(a, "message", texts) for a in status.attempts),
        )
        if size(status) <= limit:
            return status
    while size(status) > limit and (len(status.attempts) > 1 or status.pools):
        status = change(status, pools=()) if status.pools else change(status, attempts=status.attempts[1:])
    return status


def _shorter(part: Any, name: str, limit: int) -> Any:
    text = getattr(part, name)
    return part if len(text) <= limit else part.model_copy(update={name: clip(text, limit) if limit else ""})
