"""What a script or a trace means, and which instances it takes back."""

from __future__ import annotations

from typing import Any

import pytest

from localcloud.market import Market, Quote
from localcloud.market_script import Change, parse, reclaimed
from localcloud.pools import Pool

A = Pool.parse("g5.xlarge/us-east-1a/spot")
B = Pool.parse("g5.xlarge/us-east-1b/spot")
ON_DEMAND = Pool.parse("g5.xlarge/us-east-1a/on-demand")


def test_a_script_is_read_in_the_order_of_time() -> None:
    document = [{"at": 30, "pool": str(A), "capacity": 0}, {"at": 0, "pool": str(B), "price": 0.5}]
    assert parse(document) == (Change(0, B, price=0.5), Change(30, A, capacity=0))


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({}, "JSON list"),
        ([{"pool": str(A)}], "step 0"),
        ([{"at": 1, "pool": str(A)}, {"at": 1, "pool": "nowhere"}], "step 1"),
        ([{"at": 1, "pool": str(A), "colour": "red"}], "colour"),
        ([{"at": 1, "pool": str(A), "price": -1}], "price"),
        ({"data": [1], "metadata": {"gap_seconds": 60}}, "--pool"),
    ],
)
def test_a_script_with_a_mistake_is_refused_with_its_place(document: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse(document)


def test_a_trace_becomes_the_changes_of_its_pool_only_where_it_changes() -> None:
    document = {"metadata": {"gap_seconds": 600}, "data": [1, 1, 0, 0, 2]}
    assert parse(document, A) == (Change(0, A, capacity=1), Change(1200, A, capacity=0), Change(2400, A, capacity=2))


def test_a_trace_without_its_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="gap_seconds"):
        parse({"data": [1]}, A)


def test_the_newest_instances_beyond_the_capacity_are_taken_back() -> None:
    assert reclaimed(Market({A: Quote(0.5, 1)}), {A: ["old", "mid", "new"], B: ["other"]}) == ("new", "mid")


def test_on_demand_instances_are_never_taken_back() -> None:
    assert reclaimed(Market({ON_DEMAND: Quote(1.0, 0)}), {ON_DEMAND: ["i-1"]}) == ()


def test_a_pool_without_a_limit_keeps_its_instances() -> None:
    assert reclaimed(Market(), {A: ["i-1", "i-2"]}) == ()
