"""The score card of a drill: what it cost and whether the promise was kept. Pure: two states of the job and what the drill itself saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Json = Mapping[str, Any]
POINTS = ("signal", "durable", "gone", "placed", "started", "loaded", "firstStep")
"""Of `status.attempts[].interruption`, in the order in which they come to pass."""
_WORDS = {
    "seen": "its loss was seen",
    "signal": "trainer told",
    "durable": "commit durable",
    "gone": "pod gone",
    "placed": "new pod on a node",
    "started": "container started",
    "loaded": "model loaded",
    "firstStep": "first useful step",
}
BROKEN_EXACTNESS = "StateDiffers"


class Kind(StrEnum):
    """What a drill does."""

    NOTICE = "notice"
    NO_NOTICE = "no-notice"
    REBALANCE = "rebalance"
    CUT = "cut"
    PAUSE = "pause"


@dataclass(frozen=True)
class Before:
    """The job as the drill found it."""

    job: str
    namespace: str
    uid: str
    epoch: int
    pod: str
    pod_uid: str
    node: str
    pool: str
    step: int
    """Finished steps, as the trainer told just before the drill began."""


@dataclass(frozen=True)
class Seen:
    """What the drill itself saw."""

    done: str
    """What was done, for people."""
    began: float
    """Wall clock seconds of the first word, or of the kill if there was none."""
    commit_seconds: float | None = None
    """From the first word to the durable commit, of a job that stays; None if there was nothing new to commit."""
    stayed: str = ""
    """Why the job did not have to move; empty if it did."""
    old_end: str = ""
    """How the old trainer ended that came back; empty if none did."""


@dataclass(frozen=True)
class Price:
    """Of the machine, in dollars; None: not known."""

    per_hour: float | None
    source: str
    """Where it is from, or how to have it known."""


@dataclass(frozen=True)
class Card:
    """The result of a drill."""

    kind: Kind
    before: Before
    epoch: int
    """Attempt that does useful work now."""
    seen: Seen
    steps_lost: int | None
    """Finished steps that were done again; None if that is not known."""
    seconds_lost: float
    parts: tuple[tuple[str, float], ...]
    """What the seconds went to, in order; names for people."""
    price: Price
    exact: str
    """`True`, `False` or `Unknown`, as the condition `ResumeExact`."""
    exact_reason: str
    exact_message: str

    @property
    def dollars_lost(self) -> float | None:
        return None if self.price.per_hour is None else self.seconds_lost * self.price.per_hour / 3600

    @property
    def broken(self) -> str:
        """What of the promise was not kept; empty if all was."""
        if self.exact_reason == BROKEN_EXACTNESS:
            return f"what was restored is not what was committed: {self.exact_message}"
        if self.kind is Kind.NOTICE and self.steps_lost != 0:
            return f"with notice no finished step may be lost: {'it is not known how many were' if self.steps_lost is None else self.steps_lost}"
        return ""


def waited_for(before: Before, status: Json) -> str:
    """What has still to come to pass until useful work is done again; empty when it is."""
    entry = attempt(status, before.epoch)
    if (entry.get("interruption") or {}).get("firstStep") is not None:
        return ""
    now = int(status.get("attempt", 0))
    if now == before.epoch:
        if not entry.get("endedAt"):
            return "the trainer's end" if status.get("phase") == "Draining" else "the operator to see it"
        return "the operator to begin the next attempt"
    if not attempt(status, now).get("node"):
        return f"a node for attempt {now}"
    return f"attempt {now} to load the model" if status.get("phase") != "Running" else f"the first step of attempt {now}"


def card(kind: Kind, before: Before, status: Json, seen: Seen, price: Price) -> Card:
    """The score card, once `waited_for` says that nothing has to be waited for, or `seen` that the job stayed."""
    ledger = {} if seen.stayed else attempt(status, before.epoch).get("interruption") or {}
    now = int(status.get("attempt", before.epoch))
    exact: Json = next((c for c in status.get("conditions", ()) if c.get("type") == "ResumeExact"), {})
    parts = _parts(ledger, seen)
    lost = 0 if seen.stayed else _steps_lost(ledger, before, attempt(status, now))
    seconds = sum(value for _, value in parts)
    words = (str(exact.get("status", "Unknown")), str(exact.get("reason", "")), str(exact.get("message", "")))
    return Card(kind, before, now, seen, lost, 0.0 if seen.stayed else seconds, parts, price, *words)


def attempt(status: Json, epoch: int) -> Json:
    """The entry of an attempt; empty if it is not kept."""
    return next((entry for entry in status.get("attempts", ()) if entry.get("epoch") == epoch), {})


def _parts(ledger: Json, seen: Seen) -> tuple[tuple[str, float], ...]:
    if not ledger:
        return () if seen.commit_seconds is None else ((_WORDS["durable"], round(seen.commit_seconds, 3)),)
    points = {name: float(ledger["at"]) + float(ledger[name]) for name in POINTS if ledger.get(name) is not None}
    announced = ledger.get("source") not in (None, "", "none")
    at = float(ledger["at"]) if announced else seen.began
    if not announced and "gone" in points:
        # Nobody told the operator: the pod's end is known from when it was missed.
        points = {"seen": points.pop("gone"), **points}
    parts, last = [], at
    for name, when in points.items():
        parts.append((_WORDS[name], round(max(0.0, when - last), 3)))
        last = max(last, when)
    return tuple(parts)


def _steps_lost(ledger: Json, before: Before, now: Json) -> int | None:
    """The operator hears of steps every few seconds only: what the drill heard itself may be more."""
    if not now.get("claimed"):
        return None
    heard = max(0, before.step - int(now.get("stepFrom") or 0))
    return max(heard, int(ledger.get("stepsRedone") or 0))


def document(card: Card) -> dict[str, Any]:
    """For programs."""
    before = card.before
    return {
        "kind": card.kind.value,
        "job": before.job,
        "namespace": before.namespace,
        "uid": before.uid,
        "node": before.node,
        "pool": before.pool,
        "done": card.seen.done,
        "attempts": {"from": before.epoch, "to": card.epoch},
        "stayed": card.seen.stayed or None,
        "oldTrainer": card.seen.old_end or None,
        "stepsLost": card.steps_lost,
        "secondsLost": round(card.seconds_lost, 3),
        "parts": [{"until": name, "seconds": seconds} for name, seconds in card.parts],
        "dollarsLost": None if card.dollars_lost is None else round(card.dollars_lost, 6),
        "pricePerHour": card.price.per_hour,
        "priceSource": card.price.source,
        "exact": {"status": card.exact, "reason": card.exact_reason, "message": card.exact_message},
        "kept": not card.broken,
        "broken": card.broken or None,
    }


def lines(card: Card) -> list[str]:
    """For people."""
    before = card.before
    moved = f"attempt {before.epoch} stays" if card.epoch == before.epoch else f"attempt {before.epoch} → {card.epoch}"
    rows = [("what was done", card.seen.done)]
    if card.seen.stayed:
        rows.append(("nothing moved", card.seen.stayed))
    rows += [
        ("steps lost", "unknown" if card.steps_lost is None else str(card.steps_lost)),
        ("seconds lost", f"{card.seconds_lost:.1f}"),
    ]
    rows += [("", f"{seconds:7.1f} s  → {name}") for name, seconds in card.parts]
    rows.append(("dollars lost", _dollars(card)))
    rows.append(("exact", f"{ {'True': 'yes', 'False': 'no'}.get(card.exact, 'unknown') } ({card.exact_reason}) {card.exact_message}"))
    if card.seen.old_end:
        rows.append(("old trainer", card.seen.old_end))
    rows.append(("promise", f"NOT KEPT: {card.broken}" if card.broken else "kept"))
    head = f"drill {card.kind.value}  {before.namespace}/{before.job}  {moved}  node {before.node}  {before.pool}"
    return [head, *(f"{name:<14} {text}".rstrip() for name, text in rows)]


def _dollars(card: Card) -> str:
    if card.dollars_lost is None:
        return f"unknown: {card.price.source}"
    return f"${card.dollars_lost:.4f} (at ${card.price.per_hour:g} per hour, {card.price.source})"
