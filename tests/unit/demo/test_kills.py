from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.demo.kills import Kill, Kind, at_random, due, usual, warning_due


def test_the_usual_demo_has_a_notice_after_a_third_and_a_power_cut_after_two_thirds() -> None:
    assert [(k.at_step, k.kind) for k in usual(60)] == [(20, Kind.NOTICE), (40, Kind.POWER_OFF)]


@given(st.integers(0, 10_000), st.integers(8, 500), st.integers(1, 2))
def test_random_kills_are_a_function_of_the_seed_and_leave_steps_to_do(seed: int, total: int, count: int) -> None:
    kills = at_random(total, seed, count)
    assert kills == at_random(total, seed, count)
    steps = [k.at_step for k in kills]
    assert steps == sorted(set(steps))
    assert steps[0] >= 1
    assert steps[-1] < total


@given(st.integers(0, 10_000))
def test_kills_of_all_kinds_may_be_drawn_and_the_usual_ones_come_first_in_the_seeds_that_were_printed(seed: int) -> None:
    assert len({kill.kind for kill in at_random(400, seed, 90, tuple(Kind))}) > 5
    assert {kill.kind for kill in at_random(400, seed, 90)} == {Kind.NOTICE, Kind.POWER_OFF}


def test_too_short_a_job_is_refused_with_the_length_it_needs() -> None:
    with pytest.raises(ValueError, match="at least 8 steps"):
        at_random(7, seed=0)


@pytest.mark.parametrize(("done", "step", "expected"), [(0, 4, None), (0, 5, 0), (0, 9, 0), (1, 5, None), (1, 9, 1), (2, 99, None)])
def test_a_kill_is_due_once_its_step_is_reached_and_the_ones_before_are_done(done: int, step: int, expected: int | None) -> None:
    kills = (Kill(5, Kind.NOTICE), Kill(9, Kind.POWER_OFF))
    assert due(kills, done, step) == (None if expected is None else kills[expected])


@pytest.mark.parametrize(("done", "step", "expected"), [(0, 17, False), (0, 18, True), (0, 25, True), (1, 45, False), (2, 99, False)])
def test_a_recommendation_comes_two_steps_before_the_notice_and_none_before_a_power_cut(done: int, step: int, expected: bool) -> None:
    assert warning_due(usual(60), done, step) is expected
