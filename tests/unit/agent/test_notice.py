from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spottune_agent.notice import (
    ASSUMED_SECONDS,
    LIFECYCLE,
    MAINTENANCE,
    MAINTENANCE_LEAD_SECONDS,
    PATHS,
    REBALANCE,
    SPOT_ACTION,
    Interruption,
    Kind,
    Reading,
    interruptions,
    merge,
    parse_time,
)

NOW = 1657559400.0
ACTION_TIME = 1657559504.0  # 2022-07-11T17:11:44Z
SCHEDULED = {
    "NotBefore": "21 Jan 2019 09:00:43 GMT",
    "NotAfter": "21 Jan 2019 09:17:23 GMT",
    "Code": "system-reboot",
    "Description": "scheduled reboot",
    "EventId": "instance-event-0d59937288b749b32",
    "State": "active",
}


def read(path: str, body: object) -> list[Interruption]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return interruptions("i-1", [Reading(path, data)], NOW)


@pytest.mark.parametrize(("action", "kind"), [("terminate", Kind.TERMINATE), ("stop", Kind.STOP)])
def test_a_spot_notice_carries_its_action_time_as_the_deadline(action: str, kind: Kind) -> None:
    [found] = read(SPOT_ACTION, {"action": action, "time": "2022-07-11T17:11:44Z"})
    assert (found.kind, found.deadline, found.source) == (kind, ACTION_TIME, "imds-spot")


def test_hibernation_begins_at_once_whatever_time_is_stated() -> None:
    [found] = read(SPOT_ACTION, {"action": "hibernate", "time": "2022-07-11T17:11:44Z"})
    assert (found.kind, found.deadline) == (Kind.HIBERNATE, NOW + ASSUMED_SECONDS)


def test_a_spot_notice_without_a_usable_time_means_that_little_time_is_left() -> None:
    [found] = read(SPOT_ACTION, {"action": "terminate", "time": "soon"})
    assert found.deadline == NOW + ASSUMED_SECONDS


def test_a_rebalance_recommendation_ends_nothing() -> None:
    [found] = read(REBALANCE, {"noticeTime": "2022-07-16T19:18:24Z"})
    assert (found.kind, found.deadline, found.source) == (Kind.REBALANCE, None, "rebalance")


@pytest.mark.parametrize("body", [[SCHEDULED], SCHEDULED], ids=["array", "object"])
def test_maintenance_is_read_as_an_array_and_as_an_object(body: object) -> None:
    [found] = read(MAINTENANCE, body)
    assert found.deadline == 1548061243.0
    assert found.act_at == found.deadline - MAINTENANCE_LEAD_SECONDS
    assert found.kind is Kind.MAINTENANCE


@pytest.mark.parametrize("change", [{"State": "completed"}, {"State": "canceled"}, {"Code": "something-else"}, {"NotBefore": None}])
def test_maintenance_that_is_over_or_of_no_concern_is_no_interruption(change: dict[str, object]) -> None:
    assert read(MAINTENANCE, [{**SCHEDULED, **change}]) == []


@pytest.mark.parametrize(("state", "count"), [(b"Terminated", 1), (b"InService", 0), (b"Standby", 0), (b"", 0)])
def test_only_the_lifecycle_state_terminated_ends_the_instance(state: bytes, count: int) -> None:
    assert len(read(LIFECYCLE, state)) == count


def test_the_most_urgent_interruption_comes_first() -> None:
    readings = [
        Reading(REBALANCE, b'{"noticeTime":"2022-07-11T17:00:00Z"}'),
        Reading(SPOT_ACTION, b'{"action":"terminate","time":"2022-07-11T17:11:44Z"}'),
    ]
    assert [item.kind for item in interruptions("i-1", readings, NOW)] == [Kind.TERMINATE, Kind.REBALANCE]


def test_the_same_event_read_many_times_stays_one_and_keeps_its_first_deadline() -> None:
    first = read(LIFECYCLE, b"Terminated")
    later = interruptions("i-1", [Reading(LIFECYCLE, b"Terminated")], NOW + 50)
    assert merge(merge(first, later), later) == first


def test_another_action_time_is_another_event() -> None:
    first = read(SPOT_ACTION, {"action": "terminate", "time": "2022-07-11T17:11:44Z"})
    second = read(SPOT_ACTION, {"action": "terminate", "time": "2022-07-11T17:11:14Z"})
    assert [item.deadline for item in merge(first, second)] == [ACTION_TIME - 30, ACTION_TIME]


@pytest.mark.parametrize("text", ["", "x", "99999999-01-01", "2022-13-01T00:00:00Z", "2022", "9" * 50, "Mon, 99 Jan"])
def test_what_is_no_time_is_none(text: str) -> None:
    assert parse_time(text) is None or isinstance(parse_time(text), float)


@given(path=st.sampled_from(PATHS), body=st.binary(max_size=200))
def test_no_bytes_make_the_parser_fail(path: str, body: bytes) -> None:
    for found in interruptions("i-1", [Reading(path, body)], NOW):
        assert found.source


documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=12)
    | st.sampled_from(["terminate", "active", "instance-stop"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["action", "time", "noticeTime", "NotBefore", "Code", "State", "EventId"]), inner, max_size=5)
    ),
    max_leaves=8,
)


@given(path=st.sampled_from(PATHS), document=documents)
def test_no_document_makes_the_parser_fail(path: str, document: object) -> None:
    read(path, document)


def test_a_document_of_deep_nesting_is_nothing() -> None:
    assert read(SPOT_ACTION, b"[" * 30000) == []
