"""The market's decisions: which pool a launch gets, what is refused, what a script or a trace means."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcloud.market import Allocation, Market, Offer, Quote, allocate, load, quotes, set_pool
from localcloud.pools import Pool, all_pools, list_price

A = Pool.parse("g5.xlarge/us-east-1a/spot")
B = Pool.parse("g5.xlarge/us-east-1b/spot")
C = Pool.parse("g6.xlarge/us-east-1c/spot")
OFFERS = [Offer(A), Offer(B), Offer(C)]


def market(**pools: Quote) -> Market:
    return Market({{"a": A, "b": B, "c": C}[name]: quote for name, quote in pools.items()})


def test_a_launch_takes_the_cheapest_offer() -> None:
    assert allocate(market(a=Quote(0.3), b=Quote(0.2), c=Quote(0.4)), OFFERS, {}, 1) == Allocation((1,), ())


def test_equal_prices_are_ranked_by_the_requesters_priority() -> None:
    offers = [Offer(A, priority=2.0), Offer(B, priority=1.0)]
    assert allocate(market(a=Quote(0.3), b=Quote(0.3)), offers, {}, 1).launched == (1,)


def test_a_pool_without_capacity_is_reported_and_the_next_cheapest_taken() -> None:
    assert allocate(market(a=Quote(0.3), b=Quote(0.2, 0), c=Quote(0.4)), OFFERS, {}, 1) == Allocation((0,), (1,))


def test_instances_that_run_already_use_the_capacity_up() -> None:
    quotes = market(a=Quote(0.2, 2), b=Quote(0.3), c=Quote(0.4))
    assert allocate(quotes, OFFERS, {A: 1}, 1).launched == (0,)
    assert allocate(quotes, OFFERS, {A: 2}, 1) == Allocation((1,), (0,))


def test_a_launch_of_several_spills_over_into_the_next_pool() -> None:
    assert allocate(market(a=Quote(0.2, 2), b=Quote(0.3), c=Quote(0.4)), OFFERS, {}, 3) == Allocation((0, 0, 1), (0,))


def test_no_capacity_anywhere_launches_nothing_and_reports_every_offer() -> None:
    empty = market(a=Quote(0.2, 0), b=Quote(0.3, 0), c=Quote(0.1, 0))
    assert allocate(empty, OFFERS, {}, 1) == Allocation((), (2, 0, 1))


@given(
    prices=st.lists(st.floats(0.01, 10), min_size=3, max_size=3),
    limits=st.lists(st.none() | st.integers(0, 3), min_size=3, max_size=3),
    held=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    wanted=st.integers(0, 8),
)
def test_an_allocation_never_exceeds_capacity_and_never_stops_short_of_it(
    prices: list[float], limits: list[int | None], held: list[int], wanted: int
) -> None:
    pools = [A, B, C]
    state = Market({pool: Quote(price, limit) for pool, price, limit in zip(pools, prices, limits, strict=True)})
    got = allocate(state, OFFERS, dict(zip(pools, held, strict=True)), wanted)
    room = [None if limit is None else max(limit - n, 0) for limit, n in zip(limits, held, strict=True)]
    for index, free in enumerate(room):
        assert free is None or got.launched.count(index) <= free
    everything = wanted if None in room else min(wanted, sum(free for free in room if free is not None))
    assert len(got.launched) == everything
    assert [prices[i] for i in got.launched] == sorted(prices[i] for i in got.launched)


def test_what_nobody_set_costs_the_list_price_and_has_no_limit() -> None:
    assert Market().quote(A) == Quote(list_price(A), None)


def test_spot_is_cheaper_than_on_demand_in_every_zone() -> None:
    for pool in all_pools():
        if pool.capacity_type == "spot":
            assert list_price(pool) < list_price(Pool(pool.instance_type, pool.zone, "on-demand"))


def test_a_change_of_the_price_leaves_the_capacity_alone_and_the_other_way_round() -> None:
    changed = Market().with_pool(A, price=0.9).with_pool(A, capacity=3)
    assert changed.quote(A) == Quote(0.9, 3)
    assert changed.with_pool(A, endless=True).quote(A) == Quote(0.9, None)


@pytest.mark.parametrize(("price", "capacity", "named"), [(0.0, None, "price"), (-1.0, None, "price"), (None, -1, "capacity")])
def test_impossible_values_are_refused_by_name(price: float | None, capacity: int | None, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Market().with_pool(A, price=price, capacity=capacity)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("g5.xlarge", "write it as"),
        ("p5.48xlarge/us-east-1a/spot", "instance type"),
        ("g5.xlarge/eu-west-1a/spot", "zone"),
        ("g5.xlarge/us-east-1a/cheap", "capacity type"),
    ],
)
def test_a_pool_that_does_not_exist_is_refused_with_what_there_is(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Pool.parse(text)


def test_a_pool_reads_as_it_is_written() -> None:
    for pool in all_pools():
        assert Pool.parse(str(pool)) == pool


def test_the_market_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "market.json"
    assert load(path) == Market()
    assert set_pool(path, A, price=0.5, capacity=0) == Quote(0.5, 0)
    assert load(path).quote(A) == Quote(0.5, 0)
    assert quotes(path)[B] == Quote(list_price(B))
    assert json.loads(path.read_text()) == {"pools": {"g5.xlarge/us-east-1a/spot": {"price": 0.5, "capacity": 0}}}


def test_writers_at_the_same_time_lose_none_of_their_changes(tmp_path: Path) -> None:
    path = tmp_path / "market.json"
    pools = all_pools()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda pool: set_pool(path, pool, capacity=7), pools))
    assert all(quote.capacity == 7 for quote in quotes(path).values())
