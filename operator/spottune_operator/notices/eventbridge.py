"""EventBridge events about EC2 instances, parsed under limits. Pure: bytes in, a value or `Malformed` out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, NoReturn

MAX_BODY_BYTES = 256 * 1024
"""The largest message that SQS carries."""
MAX_DEPTH = 32
MAX_INSTANCES = 100
SPOT_NOTICE_SECONDS = 120.0
"""EC2 takes a spot instance this long after the event's `time`."""

_INSTANCE = re.compile(r"i-(?:[0-9a-f]{8}|[0-9a-f]{17})")
_ENDING_STATES = frozenset({"stopping", "stopped", "shutting-down", "terminated"})


class Malformed(ValueError):
    """No event that we can read: left in the queue, so that it ends in the dead-letter queue where a person can see it."""


class Kind(StrEnum):
    """What an event says about an instance."""

    SPOT_INTERRUPTION = "SpotInterruption"
    REBALANCE = "RebalanceRecommendation"
    STATE_CHANGE = "InstanceStateChange"
    SCHEDULED_CHANGE = "ScheduledChange"
    CAPACITY_RESERVATION = "CapacityReservationInterruption"


@dataclass(frozen=True)
class CloudEvent:
    """One event about instances."""

    kind: Kind
    instances: tuple[str, ...]
    at: float
    """Wall clock seconds since the epoch at which the event was made."""
    deadline: float | None
    """Wall clock seconds since the epoch at which the machine goes away; None: nothing ends."""
    action: str
    """`terminate`, `stop`, `hibernate`, a state, or the event type code of a scheduled change."""


@dataclass(frozen=True)
class Irrelevant:
    """A readable event that says nothing about the end of an instance; `why` is a CamelCase constant."""

    why: str


def parse(body: bytes | str, *, account: str = "", region: str = "") -> CloudEvent | Irrelevant:
    """Read one SQS message body. A given `account` or `region` must be the event's, if the event names one.

    Raises `Malformed` for everything that is not an EventBridge event of the documented shape, and nothing else.
    """
    event = _load(body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body)
    for field, expected in (("account", account), ("region", region)):
        if expected and event.get(field) not in (None, expected):
            return Irrelevant("ForeignAccount" if field == "account" else "ForeignRegion")
    reader = _READERS.get((_text(event, "source"), _text(event, "detail-type")))
    if reader is None:
        return Irrelevant("UnknownDetailType")
    detail = event.get("detail")
    if not isinstance(detail, dict):
        raise Malformed("detail is not an object")
    return reader(_timestamp(_text(event, "time")), detail)


def _load(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BODY_BYTES:
        raise Malformed(f"{len(data)} bytes are more than a queue message has")
    try:
        event = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON ({type(error).__name__})") from None
    if not isinstance(event, dict):
        raise Malformed("not a JSON object")
    _check_depth(event)
    return event


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_depth(event: dict[str, Any]) -> None:
    level: list[Any] = [event]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            below.extend(item.values() if isinstance(item, dict) else item)
        level = [item for item in below if isinstance(item, dict | list)]
        if not level:
            return
    raise Malformed(f"nested deeper than {MAX_DEPTH}")


def _text(document: dict[str, Any], field: str) -> str:
    value = document.get(field)
    if not isinstance(value, str):
        raise Malformed(f"{field} is not a text")
    return value


def _timestamp(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Malformed("time is not a time") from None
    return _seconds(moment)


def _seconds(moment: datetime) -> float:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        return aware.timestamp()
    except (OverflowError, ValueError):
        raise Malformed("time is out of range") from None


def _instance(detail: dict[str, Any]) -> tuple[str, ...]:
    name = _text(detail, "instance-id")
    if not _INSTANCE.fullmatch(name):
        raise Malformed("instance-id is not an instance")
    return (name,)


def _spot(at: float, detail: dict[str, Any]) -> CloudEvent:
    action = _text(detail, "instance-action")
    # Hibernation starts with the notice: EC2 promises no two minutes for it.
    notice = 0.0 if action == "hibernate" else SPOT_NOTICE_SECONDS
    return CloudEvent(Kind.SPOT_INTERRUPTION, _instance(detail), at, at + notice, action)


def _rebalance(at: float, detail: dict[str, Any]) -> CloudEvent:
    return CloudEvent(Kind.REBALANCE, _instance(detail), at, None, "rebalance")


def _state_change(at: float, detail: dict[str, Any]) -> CloudEvent | Irrelevant:
    state = _text(detail, "state")
    instances = _instance(detail)
    if state not in _ENDING_STATES:
        return Irrelevant("StateNotEnding")
    return CloudEvent(Kind.STATE_CHANGE, instances, at, at, state)


def _capacity_reservation(at: float, detail: dict[str, Any]) -> CloudEvent:
    return CloudEvent(Kind.CAPACITY_RESERVATION, _instance(detail), at, at + SPOT_NOTICE_SECONDS, _text(detail, "instance-action"))


def _health(at: float, detail: dict[str, Any]) -> CloudEvent | Irrelevant:
    if _text(detail, "service") != "EC2" or _text(detail, "eventTypeCategory") != "scheduledChange":
        return Irrelevant("HealthNotScheduledChange")
    entities = detail.get("affectedEntities")
    if not isinstance(entities, list) or len(entities) > MAX_INSTANCES:
        raise Malformed(f"affectedEntities is not a list of at most {MAX_INSTANCES}")
    names = [entity.get("entityValue") for entity in entities if isinstance(entity, dict)]
    instances = tuple(name for name in names if isinstance(name, str) and _INSTANCE.fullmatch(name))
    if not instances:
        return Irrelevant("NoInstances")
    try:
        start = _seconds(parsedate_to_datetime(_text(detail, "startTime")))
    except (ValueError, TypeError, IndexError, OverflowError):
        raise Malformed("startTime is not a time") from None
    return CloudEvent(Kind.SCHEDULED_CHANGE, instances, at, start, _text(detail, "eventTypeCode")[:128])


_READERS = {
    ("aws.ec2", "EC2 Spot Instance Interruption Warning"): _spot,
    ("aws.ec2", "EC2 Instance Rebalance Recommendation"): _rebalance,
    ("aws.ec2", "EC2 Instance State-change Notification"): _state_change,
    ("aws.ec2", "EC2 Capacity Reservation Instance Interruption Warning"): _capacity_reservation,
    ("aws.health", "AWS Health Event"): _health,
}
