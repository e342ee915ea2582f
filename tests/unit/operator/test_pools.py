"""Which pool the next attempt is sent to."""

from __future__ import annotations

import pytest

from spottune_operator.api.v1alpha1 import POOLS_KEPT, CapacitySpec, PoolStatus
from spottune_operator.planner import pools
from spottune_operator.planner.pools import Choice, Pool

NOW = 1_800_000_000.0
TWO = CapacitySpec(instance_types=("a1", "b1"), zones=("z1", "z2"))
A1, A2, B1, B2 = (f"{t}/{z}/spot" for t in ("a1", "b1") for z in ("z1", "z2"))


def closed(pool: str, seconds: float) -> PoolStatus:
    return PoolStatus(pool=pool, failures=1, not_before=NOW + seconds)


def avoided(pool: str, seconds: float) -> PoolStatus:
    return PoolStatus(pool=pool, avoid_until=NOW + seconds)


TABLE: dict[str, tuple[tuple[PoolStatus, ...], str | None, float]] = {
    "nothing known": ((), A1, 0),
    "the first was interrupted": ((avoided(A1, 100),), A2, 0),
    "the first had no machine": ((closed(A1, 100),), A2, 0),
    "only an interrupted one is open": ((avoided(A1, 100), closed(A2, 9), closed(B1, 9), closed(B2, 9)), A1, 0),
    "all were interrupted: the longest ago": ((avoided(A1, 100), avoided(A2, 50), avoided(B1, 70), avoided(B2, 60)), A2, 0),
    "all are closed: the first to open": ((closed(A1, 40), closed(A2, 30), closed(B1, 20), closed(B2, 50)), None, 20),
    "a closing that is over": ((closed(A1, -1),), A1, 0),
    "a closing longer than any backoff is a clock set back": ((closed(A1, 10_000),), A1, 0),
    "an unknown pool does not matter": ((closed("c1/z9/spot", 100),), A1, 0),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_choice_is_the_first_open_pool_that_was_not_just_interrupted(case: str) -> None:
    states, expected, wait = TABLE[case]
    choice = pools.choose(TWO, states, NOW)
    assert choice == Choice(Pool.parse(expected) if expected else None, wait)


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [
        (CapacitySpec(), ["*/*/spot"]),
        (CapacitySpec(spot="Never"), ["*/*/on-demand"]),
        (CapacitySpec(instance_types=("a1",)), ["a1/*/spot"]),
        (CapacitySpec(zones=("z1", "z2")), ["*/z1/spot", "*/z2/spot"]),
        (TWO, [A1, A2, B1, B2]),
    ],
)
def test_candidates_are_types_times_zones_in_the_order_of_the_spec(capacity: CapacitySpec, expected: list[str]) -> None:
    assert [str(pool) for pool in pools.candidates(capacity)] == expected
    assert [Pool.parse(text) for text in expected] == list(pools.candidates(capacity))


@pytest.mark.parametrize("text", ["", "a1", "a1/z1", "a1//spot", "a1/z1/spot/x"])
def test_what_is_no_pool_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a pool"):
        Pool.parse(text)


def test_a_pool_without_machines_is_left_alone_longer_each_time() -> None:
    states: tuple[PoolStatus, ...] = ()
    waits = []
    for _ in range(6):
        states = pools.without_capacity(states, A1, NOW)
        waits.append(states[0].not_before - NOW)
    assert waits == [30, 60, 120, 240, 480, 600]
    assert pools.had_capacity(states, A1) == ()


def test_capacity_does_not_make_an_interruption_forgotten() -> None:
    states = pools.interrupted(pools.without_capacity((), A1, NOW), A1, NOW)
    (state,) = pools.had_capacity(states, A1)
    assert (state.failures, state.not_before, state.avoid_until) == (0, 0, NOW + 180)


def test_only_the_latest_pools_are_kept() -> None:
    states: tuple[PoolStatus, ...] = ()
    for n in range(30):
        states = pools.interrupted(states, f"t{n}/z/spot", NOW + n)
    assert len(states) == POOLS_KEPT
    assert {s.pool for s in states} == {f"t{n}/z/spot" for n in range(18, 30)}


@pytest.mark.parametrize(("states", "expected"), [((), True), ((closed(A2, 9), closed(B1, 9), closed(B2, 9)), False)])
def test_whether_there_is_anywhere_else_to_go(states: tuple[PoolStatus, ...], expected: bool) -> None:
    assert pools.elsewhere(TWO, states, A1, NOW) is expected
