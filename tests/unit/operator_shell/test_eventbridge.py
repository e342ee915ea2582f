"""Events about instances: what is read, what is ignored, what is left for the dead-letter queue, and that nothing else can happen."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spottune_operator.notices.eventbridge import MAX_BODY_BYTES, CloudEvent, Irrelevant, Kind, Malformed, parse

AT = "2026-03-01T12:00:00Z"
SECONDS = 1772366400.0
INSTANCE = "i-0b662ef9931388ba0"


def event(detail_type: str, detail: Any, source: str = "aws.ec2", **fields: Any) -> str:
    base = {"version": "0", "id": "1e5527d7", "account": "123456789012", "region": "us-east-1", "time": AT, "resources": []}
    return json.dumps({**base, "source": source, "detail-type": detail_type, "detail": detail, **fields})


SPOT = event("EC2 Spot Instance Interruption Warning", {"instance-id": INSTANCE, "instance-action": "terminate"})


def test_a_spot_warning_ends_the_machine_two_minutes_after_its_time() -> None:
    assert parse(SPOT) == CloudEvent(Kind.SPOT_INTERRUPTION, (INSTANCE,), SECONDS, SECONDS + 120, "terminate")


def test_hibernation_gives_no_two_minutes() -> None:
    body = event("EC2 Spot Instance Interruption Warning", {"instance-id": INSTANCE, "instance-action": "hibernate"})
    answer = parse(body)
    assert isinstance(answer, CloudEvent)
    assert answer.deadline == SECONDS


def test_a_rebalance_recommendation_has_no_deadline() -> None:
    body = event("EC2 Instance Rebalance Recommendation", {"instance-id": INSTANCE})
    assert parse(body) == CloudEvent(Kind.REBALANCE, (INSTANCE,), SECONDS, None, "rebalance")


@pytest.mark.parametrize(("state", "ends"), [("stopping", True), ("shutting-down", True), ("terminated", True), ("running", False)])
def test_only_states_that_end_a_machine_count(state: str, ends: bool) -> None:
    answer = parse(event("EC2 Instance State-change Notification", {"instance-id": INSTANCE, "state": state}))
    assert answer == (CloudEvent(Kind.STATE_CHANGE, (INSTANCE,), SECONDS, SECONDS, state) if ends else Irrelevant("StateNotEnding"))


def test_a_scheduled_change_names_its_instances_and_its_start() -> None:
    detail = {
        "service": "EC2",
        "eventTypeCode": "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED",
        "eventTypeCategory": "scheduledChange",
        "startTime": "Sat, 05 Jun 2027 15:10:09 GMT",
        "affectedEntities": [{"entityValue": "i-12345678"}, {"entityValue": "vol-1"}],
    }
    answer = parse(event("AWS Health Event", detail, source="aws.health"))
    assert isinstance(answer, CloudEvent)
    assert (answer.kind, answer.instances, answer.deadline) == (
        Kind.SCHEDULED_CHANGE,
        ("i-12345678",),
        datetime(2027, 6, 5, 15, 10, 9, tzinfo=UTC).timestamp(),
    )
    assert parse(event("AWS Health Event", {**detail, "service": "RDS"}, source="aws.health")) == Irrelevant("HealthNotScheduledChange")


def test_an_unknown_detail_type_is_irrelevant_and_not_malformed() -> None:
    assert parse(event("EC2 Fleet Something New", {})) == Irrelevant("UnknownDetailType")
    assert parse(event("EC2 Spot Instance Interruption Warning", {}, source="my.app")) == Irrelevant("UnknownDetailType")


def test_events_of_another_account_or_region_do_not_count() -> None:
    assert parse(SPOT, account="999999999999") == Irrelevant("ForeignAccount")
    assert parse(SPOT, region="eu-west-1") == Irrelevant("ForeignRegion")
    assert isinstance(parse(SPOT, account="123456789012", region="us-east-1"), CloudEvent)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "null",
        "{}",
        "not json",
        "\ud800",
        "[" * 100_000,
        '{"a":' * 60 + "1" + "}" * 60,
        '{"time": NaN}',
        '{"time": ' + "9" * 5000 + "}",
        " " * (MAX_BODY_BYTES + 1),
        event("EC2 Spot Instance Interruption Warning", {"instance-id": "i-../../x", "instance-action": "terminate"}),
        event("EC2 Spot Instance Interruption Warning", {"instance-id": [INSTANCE], "instance-action": "terminate"}),
        event("EC2 Spot Instance Interruption Warning", {"instance-id": INSTANCE, "instance-action": "x"}, time="yesterday"),
        event("EC2 Spot Instance Interruption Warning", {"instance-id": INSTANCE, "instance-action": "x"}, time=7),
        event("EC2 Spot Instance Interruption Warning", "text"),
    ],
)
def test_what_is_no_event_is_malformed(body: str) -> None:
    with pytest.raises(Malformed):
        parse(body)


@given(st.binary(max_size=2000))
def test_any_bytes_give_a_value_or_malformed(body: bytes) -> None:
    _total(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
FIELDS = ["source", "detail-type", "time", "detail", "account", "region", "resources"]
DETAIL = ["instance-id", "instance-action", "state", "service", "eventTypeCategory", "eventTypeCode", "startTime", "affectedEntities"]
TYPES = [
    "EC2 Spot Instance Interruption Warning",
    "EC2 Instance Rebalance Recommendation",
    "EC2 Instance State-change Notification",
    "EC2 Capacity Reservation Instance Interruption Warning",
    "AWS Health Event",
]
WORDS = st.sampled_from(
    ["EC2", "scheduledChange", "stopping", INSTANCE, AT, "Sat, 05 Jun 2016 15:10:09 GMT", "0001-01-01T00:00:00+23:59", "Mon, 99 Xxx"]
)


@given(
    st.sampled_from(TYPES),
    st.sampled_from(["aws.ec2", "aws.health"]),
    st.dictionaries(st.sampled_from(DETAIL), WORDS | JSON | st.lists(st.fixed_dictionaries({"entityValue": WORDS | JSON}), max_size=3)),
    st.dictionaries(st.sampled_from(FIELDS), WORDS | JSON, max_size=2),
)
def test_any_mutation_of_an_event_gives_a_value_or_malformed(
    detail_type: str, source: str, detail: dict[str, Any], changed: dict[str, Any]
) -> None:
    _total(json.dumps({"source": source, "detail-type": detail_type, "time": AT, "detail": detail, **changed}).encode())


def _total(body: bytes) -> None:
    try:
        answer = parse(body, account="123456789012", region="us-east-1")
    except Malformed:
        return
    assert isinstance(answer, Irrelevant) or (answer.instances and all(name.startswith("i-") for name in answer.instances))
