"""From what the instance metadata says to interruptions with a deadline. Pure: no input or output, no clock.

Every parser is total: whatever bytes come, it returns interruptions or nothing, never an exception.
"""

from __future__ import annotations

import calendar
import datetime
import email.utils
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from spottune_contract.notice import ASSUMED_SECONDS

SPOT_ACTION = "spot/instance-action"
REBALANCE = "events/recommendations/rebalance"
MAINTENANCE = "events/maintenance/scheduled"
LIFECYCLE = "autoscaling/target-lifecycle-state"
PATHS = (SPOT_ACTION, REBALANCE, MAINTENANCE, LIFECYCLE)
"""Documents under `/latest/meta-data/` that are read, the most urgent first."""

MAINTENANCE_LEAD_SECONDS = 120.0
"""A maintenance is announced days ahead; the pods go this long before it, as with a spot notice."""
_BODY_LIMIT = 64 * 1024
_ENDS_THE_INSTANCE = frozenset({"instance-stop", "instance-reboot", "instance-retirement", "system-reboot", "system-maintenance"})


class Kind(StrEnum):
    """What will happen to the instance."""

    TERMINATE = "Terminate"
    STOP = "Stop"
    HIBERNATE = "Hibernate"
    MAINTENANCE = "Maintenance"
    REBALANCE = "Rebalance"
    """Nothing ends yet: the risk has risen."""


@dataclass(frozen=True)
class Interruption:
    """One announced event of the instance."""

    instance: str
    key: str
    """Identity of the event on its instance: the action time or event id that AWS gives. The same key is the same event."""
    kind: Kind
    source: str
    """As in `CheckpointRequest.source`."""
    deadline: float | None
    """Wall clock seconds at which the machine goes away; None: nothing ends."""
    act_at: float = 0.0
    """Wall clock seconds from which the trainers are told; 0: at once."""

    @property
    def identity(self) -> tuple[str, str]:
        return (self.instance, self.key)


@dataclass(frozen=True)
class Reading:
    """One document as it was read. Only answers 200 are readings; a 404 means that nothing is announced."""

    path: str
    body: bytes


def interruptions(instance: str, readings: Iterable[Reading], now: float) -> list[Interruption]:
    """What the readings announce, the most urgent first. `now` is only used where a document has no usable time."""
    found: list[Interruption] = []
    for reading in readings:
        if len(reading.body) > _BODY_LIMIT:
            continue
        if reading.path == LIFECYCLE:
            found += _lifecycle(instance, reading.body, now)
            continue
        document = _document(reading.body)
        if reading.path == SPOT_ACTION:
            found += _spot_action(instance, document, now)
        elif reading.path == REBALANCE:
            found += _rebalance(instance, document)
        elif reading.path == MAINTENANCE:
            found += _maintenance(instance, document)
    return sorted(found, key=lambda item: (item.deadline is None, item.deadline or 0.0))


def merge(known: Iterable[Interruption], seen: Iterable[Interruption]) -> list[Interruption]:
    """Known interruptions and the new ones among `seen`, each identity once, as it was first understood.

    An event that is not seen again stays known: a retracted notice costs at most one early commit or restart, a metadata
    service that fails after its first answer must cost nothing.
    """
    by_identity = {item.identity: item for item in known}
    for item in seen:
        by_identity.setdefault(item.identity, item)
    return sorted(by_identity.values(), key=lambda item: (item.deadline is None, item.deadline or 0.0, item.key))


def _spot_action(instance: str, document: object, now: float) -> list[Interruption]:
    if not isinstance(document, dict):
        return []
    kind = {"terminate": Kind.TERMINATE, "stop": Kind.STOP, "hibernate": Kind.HIBERNATE}.get(_text(document.get("action")))
    if kind is None:
        return []
    stated = _text(document.get("time"))
    time = parse_time(stated)
    deadline = now + ASSUMED_SECONDS if time is None else time
    if kind is Kind.HIBERNATE:
        # AWS starts to hibernate at once: the two minutes of the other actions do not exist.
        deadline = min(deadline, now + ASSUMED_SECONDS)
    key = f"spot/{stated}" if time is not None else "spot"
    return [Interruption(instance, key, kind, "imds-spot", deadline)]


def _rebalance(instance: str, document: object) -> list[Interruption]:
    stated = _text(document.get("noticeTime")) if isinstance(document, dict) else ""
    if parse_time(stated) is None:
        return []
    return [Interruption(instance, f"rebalance/{stated}", Kind.REBALANCE, "rebalance", None)]


def _maintenance(instance: str, document: object) -> list[Interruption]:
    # AWS sends an array; the metadata mock of AWS sends a single object.
    events = document if isinstance(document, list) else [document]
    found = []
    for event in events:
        if not isinstance(event, dict) or _text(event.get("Code")) not in _ENDS_THE_INSTANCE:
            continue
        if _text(event.get("State")) not in ("", "active"):
            continue
        time = parse_time(_text(event.get("NotBefore")))
        if time is not None:
            key = f"maintenance/{_text(event.get('EventId'))}/{_text(event.get('NotBefore'))}"
            found.append(Interruption(instance, key, Kind.MAINTENANCE, "imds-maintenance", time, time - MAINTENANCE_LEAD_SECONDS))
    return found


def _lifecycle(instance: str, body: bytes, now: float) -> list[Interruption]:
    if body.strip() != b"Terminated":
        return []
    return [Interruption(instance, "asg/Terminated", Kind.TERMINATE, "imds-asg", now + ASSUMED_SECONDS)]


def parse_time(text: str) -> float | None:
    """Wall clock seconds of `2022-07-11T17:11:44Z` or `21 Jan 2019 09:00:43 GMT`, None for anything else."""
    if not text or len(text) > 40:
        return None
    try:
        if text[:4].isdigit():
            at = datetime.datetime.fromisoformat(text)
            return calendar.timegm(at.utctimetuple()) + at.microsecond / 1e6
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _document(body: bytes) -> object:
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
