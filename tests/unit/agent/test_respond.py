from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spottune_agent.notice import Interruption, Kind
from spottune_agent.respond import FORGET_SECONDS, Done, End, Tell, TrainerPod, decide, still_known

NOW = 1_000_000.0
POD = TrainerPod("demo", "job-e1-0", "uid-1", "198.18.1.7", ending=False, finished=False)
SPOT = Interruption("i-1", "spot/t", Kind.TERMINATE, "imds-spot", NOW + 120)
REBALANCE = Interruption("i-1", "rebalance/t", Kind.REBALANCE, "rebalance", None)


def names(actions: list[Tell | End]) -> list[str]:
    return [f"{type(action).__name__} {action.pod.name}" for action in actions]


def test_the_trainer_is_told_first_and_then_its_pod_is_ended_with_the_time_left_less_the_margin() -> None:
    tell, end = decide([SPOT], [POD], [SPOT], Done(), now=NOW, margin=5)
    assert isinstance(tell, Tell)
    assert (tell.request.source, tell.request.deadline) == ("imds-spot", NOW + 120)
    assert isinstance(end, End)
    assert end.grace_seconds == 115


def test_a_rebalance_recommendation_only_asks_for_a_commit() -> None:
    [tell] = decide([REBALANCE], [POD], [REBALANCE], Done(), now=NOW, margin=5)
    assert isinstance(tell, Tell)
    assert tell.request.deadline is None


@pytest.mark.parametrize("late", [0, 114.5, 119, 120, 5000])
def test_the_grace_time_is_never_zero_because_that_would_kill_without_a_signal(late: float) -> None:
    end = decide([SPOT], [POD], [SPOT], Done(), now=NOW + late, margin=5)[-1]
    assert isinstance(end, End)
    assert end.grace_seconds >= 1


def test_a_deadline_that_has_passed_leaves_the_assumed_time_and_not_one_second() -> None:
    end = decide([SPOT], [POD], [SPOT], Done(), now=NOW + 130, margin=5)[-1]
    assert isinstance(end, End)
    assert end.grace_seconds == 20


def test_a_pod_that_is_ending_is_told_but_not_deleted_again() -> None:
    assert names(decide([SPOT], [replace(POD, ending=True)], [SPOT], Done(), now=NOW, margin=5)) == ["Tell job-e1-0"]


def test_a_pod_without_an_address_is_ended_untold_but_only_if_it_had_none_after_the_notice() -> None:
    starting = replace(POD, address="")
    assert decide([SPOT], [starting], [], Done(), now=NOW, margin=5) == []
    assert decide([REBALANCE, SPOT], [starting], [REBALANCE], Done(), now=NOW, margin=5) == []
    assert names(decide([SPOT], [replace(POD, address="")], [SPOT], Done(), now=NOW, margin=5)) == ["End job-e1-0"]


def test_a_finished_pod_is_left_alone() -> None:
    assert decide([SPOT], [replace(POD, finished=True)], [SPOT], Done(), now=NOW, margin=5) == []


def test_what_is_done_is_not_done_again() -> None:
    done = Done({(POD.uid, SPOT.identity)}, {POD.uid})
    assert decide([SPOT], [POD], [SPOT], done, now=NOW + 1, margin=5) == []


def test_a_pod_that_arrives_under_a_notice_is_treated_like_the_others() -> None:
    done = Done({(POD.uid, SPOT.identity)}, {POD.uid})
    late = replace(POD, name="other-e1-0", uid="uid-2")
    assert names(decide([SPOT], [POD, late], [SPOT], done, now=NOW + 30, margin=5)) == ["Tell other-e1-0", "End other-e1-0"]


def test_of_two_deadlines_the_earlier_one_decides_the_grace_time() -> None:
    sooner = replace(SPOT, key="asg", deadline=NOW + 20)
    end = decide([SPOT, sooner], [POD], [SPOT, sooner], Done(), now=NOW, margin=5)[-1]
    assert isinstance(end, End)
    assert end.grace_seconds == 15


def test_maintenance_is_acted_on_only_when_it_comes_near() -> None:
    maintenance = replace(SPOT, kind=Kind.MAINTENANCE, deadline=NOW + 9000, act_at=NOW + 8880)
    assert decide([maintenance], [POD], [maintenance], Done(), now=NOW, margin=5) == []
    assert names(decide([maintenance], [POD], [maintenance], Done(), now=NOW + 8880, margin=5)) == ["Tell job-e1-0", "End job-e1-0"]


def test_a_machine_that_outlives_its_announced_end_is_given_up_on_no_longer() -> None:
    long_after = NOW + 120 + FORGET_SECONDS + 1
    assert still_known([SPOT, REBALANCE], [], long_after) == [REBALANCE]
    assert still_known([SPOT], [SPOT], long_after) == [SPOT]
    assert still_known([SPOT], [], NOW + 130) == [SPOT]


pods = st.builds(
    TrainerPod,
    namespace=st.just("demo"),
    name=st.sampled_from("abc"),
    uid=st.sampled_from("123"),
    address=st.sampled_from(["", "198.18.1.9"]),
    ending=st.booleans(),
    finished=st.booleans(),
)
announced = st.builds(
    Interruption,
    instance=st.just("i-1"),
    key=st.sampled_from("xyz"),
    kind=st.sampled_from(Kind),
    source=st.just("imds-spot"),
    deadline=st.none() | st.floats(NOW - 1000, NOW + 1000),
    act_at=st.sampled_from([0.0, NOW + 60]),
)


@given(st.lists(announced, max_size=4), st.lists(pods, max_size=4, unique_by=lambda pod: pod.uid), st.floats(0, 30))
def test_carrying_out_a_decision_leaves_nothing_to_decide(known: list[Interruption], listed: list[TrainerPod], margin: float) -> None:
    actions = decide(known, listed, known, Done(), now=NOW, margin=margin)
    told = {(action.pod.uid, action.interruption.identity) for action in actions if isinstance(action, Tell)}
    ended = {action.pod.uid for action in actions if isinstance(action, End)}
    assert decide(known, listed, known, Done(told, ended), now=NOW, margin=margin) == []
    assert all(action.grace_seconds >= 1 for action in actions if isinstance(action, End))
