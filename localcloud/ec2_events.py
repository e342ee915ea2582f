"""The EventBridge events of EC2 as they arrive in an SQS queue. Pure: the time and the id are given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from localcloud.pools import ACCOUNT, REGION

Action = Literal["terminate", "stop", "hibernate"]
State = Literal["stopping", "stopped", "shutting-down", "terminated"]

NOTICE = timedelta(seconds=120)
"""AWS names no action time in the event: readers take the event's `time` plus these two minutes."""


def interruption_warning(
    event_id: str, instance_id: str, zone: str, action: Action, action_time: datetime, now: datetime
) -> dict[str, Any]:
    """The warning that a spot instance is taken back at `action_time`.

    A reader adds two minutes to the event's `time`, so for a shorter notice the event is dated back.
    """
    event = _event(event_id, "EC2 Spot Instance Interruption Warning", min(now, action_time - NOTICE))
    # This one's ARN bears the zone and no account, unlike every other.
    event["resources"] = [f"arn:aws:ec2:{zone}:instance/{instance_id}"]
    event["detail"] = {"instance-id": instance_id, "instance-action": action}
    return event


def rebalance_recommendation(event_id: str, instance_id: str, zone: str, now: datetime) -> dict[str, Any]:
    """The warning that a spot instance is at elevated risk."""
    event = _event(event_id, "EC2 Instance Rebalance Recommendation", now)
    event["resources"] = [f"arn:aws:ec2:{zone}:instance/{instance_id}"]
    event["detail"] = {"instance-id": instance_id}
    return event


def state_change(event_id: str, instance_id: str, state: State, now: datetime) -> dict[str, Any]:
    """The report that an instance has changed its state."""
    event = _event(event_id, "EC2 Instance State-change Notification", now)
    event["resources"] = [f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{instance_id}"]
    event["detail"] = {"instance-id": instance_id, "state": state}
    return event


def _event(event_id: str, detail_type: str, time: datetime) -> dict[str, Any]:
    return {
        "version": "0",
        "id": event_id,
        "detail-type": detail_type,
        "source": "aws.ec2",
        "account": ACCOUNT,
        # Whole seconds, rounded down: a reader never believes that it has longer than it has.
        "time": time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": REGION,
    }
