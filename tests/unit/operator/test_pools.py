"""Which pool the next attempt is sent to."""

from __future__ import annotations

import pytest

from spottune_operator.api.reasons import Reason
from spottune_operator.api.v1alpha1 import POOLS_KEPT, AttemptStatus, CapacitySpec, FineTuneJobStatus, PoolStatus
from spottune_operator.planner import pools
from spottune_operator.planner.pools import Choice, Pool
from spottune_operator.planner.statuses import at, instant

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


# -- what other jobs have met --------------------------------------------------------------------------------------------

HEARD: dict[str, tuple[tuple[PoolStatus, ...], tuple[PoolStatus, ...], str]] = {
    "another job was interrupted in the first": ((), (avoided(A1, 100),), A2),
    "another job found no machine in the first": ((), (closed(A1, 100),), A2),
    "own and others' trouble add up": ((avoided(A1, 100),), (closed(A2, 100), avoided(B1, 100)), B2),
    "all are in trouble: the one that is over first": ((), (closed(A1, 90), avoided(A2, 80), avoided(B1, 70), closed(B2, 60)), B2),
    "own trouble that lasts longer than what others met": (
        (avoided(A1, 100),),
        (avoided(A1, 10), *(avoided(p, 50) for p in (A2, B1, B2))),
        A2,
    ),
    "what is over for others does not matter": ((), (avoided(A1, -1), closed(A1, -1)), A1),
    "a clock set back does not close a pool for hours": ((), (closed(A1, 10_000), avoided(A1, 10_000)), A1),
}


@pytest.mark.parametrize("case", HEARD)
def test_what_other_jobs_met_changes_the_order(case: str) -> None:
    own, others, expected = HEARD[case]
    assert pools.choose(TWO, own, NOW, others) == Choice(Pool.parse(expected))


def test_what_other_jobs_met_never_keeps_a_job_from_trying() -> None:
    only = CapacitySpec(instance_types=("a1",), zones=("z1",))
    assert pools.choose(only, (), NOW, (closed(A1, 600),)) == Choice(Pool.parse(A1))
    assert pools.choose(only, (closed(A1, 30),), NOW, ()) == Choice(None, 30)


def job(*states: PoolStatus, ran: dict[str, float] | None = None) -> FineTuneJobStatus:
    """A job that has met these pools and whose attempts ran in some, `ran` seconds ago."""
    attempts = tuple(
        AttemptStatus(epoch=n, reason=Reason.ATTEMPT_STARTED, pool=pool, running_at=instant(NOW - ago))
        for n, (pool, ago) in enumerate((ran or {}).items(), 1)
    )
    return FineTuneJobStatus(pools=states, attempts=attempts)


def shared(*jobs: FineTuneJobStatus) -> tuple[PoolStatus, ...]:
    machines: dict[str, float] = {}
    for attempt in (attempt for each in jobs for attempt in each.attempts):
        machines[attempt.pool] = max(machines.get(attempt.pool, 0.0), at(attempt.running_at))
    return pools.shared([state for each in jobs for state in each.pools], machines, NOW)


def test_all_jobs_together_know_the_longest_trouble_of_each_pool() -> None:
    told = shared(job(avoided(A1, 100), closed(B1, 20)), job(avoided(A1, 50), closed(A1, 5)), job())
    assert told == (
        PoolStatus(pool=A1, failures=1, not_before=NOW + 5, avoid_until=NOW + 100),
        PoolStatus(pool=B1, failures=1, not_before=NOW + 20),
    )


def test_trouble_that_is_over_is_forgotten() -> None:
    assert shared(job(avoided(A1, -1), closed(B1, -1))) == ()


@pytest.mark.parametrize(("ago", "known"), [(5.0, ()), (15.0, (closed(A1, 20),))], ids=["since", "before"])
def test_a_machine_that_any_job_got_since_opens_a_pool_again(ago: float, known: tuple[PoolStatus, ...]) -> None:
    """The start that closed the pool for 30 s failed ten seconds ago."""
    assert shared(job(closed(A1, 20)), job(ran={A1: ago})) == known


def test_a_machine_does_not_make_an_interruption_of_the_pool_forgotten() -> None:
    assert shared(job(avoided(A1, 100)), job(ran={A1: 1.0})) == (avoided(A1, 100),)
