"""The bodies of EC2's events, as consumers rely on them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from localcloud.ec2_events import interruption_warning, rebalance_recommendation, state_change

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


def test_a_full_notice_is_dated_now() -> None:
    event = interruption_warning("id", "i-1", "us-east-1b", "terminate", NOW + timedelta(seconds=120), NOW)
    assert event == {
        "version": "0",
        "id": "id",
        "detail-type": "EC2 Spot Instance Interruption Warning",
        "source": "aws.ec2",
        "account": "123456789012",
        "time": "2026-05-04T12:00:00Z",
        "region": "us-east-1",
        "resources": ["arn:aws:ec2:us-east-1b:instance/i-1"],
        "detail": {"instance-id": "i-1", "instance-action": "terminate"},
    }


@given(st.integers(0, 120), st.integers(0, 999_999))
def test_time_plus_two_minutes_is_the_action_time_whatever_the_notice(seconds: int, microseconds: int) -> None:
    now = NOW.replace(microsecond=microseconds)
    action_time = NOW + timedelta(seconds=seconds)
    event = interruption_warning("id", "i-1", "us-east-1a", "stop", action_time, now)
    assert datetime.fromisoformat(event["time"]) + timedelta(seconds=120) == action_time


def test_a_rebalance_recommendation_names_the_zone_and_no_action() -> None:
    event = rebalance_recommendation("id", "i-1", "us-east-1c", NOW)
    assert event["detail-type"] == "EC2 Instance Rebalance Recommendation"
    assert event["resources"] == ["arn:aws:ec2:us-east-1c:instance/i-1"]
    assert event["detail"] == {"instance-id": "i-1"}


def test_a_state_change_names_account_and_state() -> None:
    event = state_change("id", "i-1", "shutting-down", NOW)
    assert event["detail-type"] == "EC2 Instance State-change Notification"
    assert event["resources"] == ["arn:aws:ec2:us-east-1:123456789012:instance/i-1"]
    assert event["detail"] == {"instance-id": "i-1", "state": "shutting-down"}
