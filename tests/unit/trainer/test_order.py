from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spottune_trainer.order import Order, sample_digest


@given(size=st.integers(1, 300), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 5))
def test_every_pass_is_a_permutation_of_the_data(size: int, seed: int, epoch: int) -> None:
    order = Order(size, seed)
    assert sorted(order.index(epoch * size + place) for place in range(size)) == list(range(size))


def test_passes_and_seeds_differ() -> None:
    def passing(seed: int, epoch: int) -> list[int]:
        return [Order(100, seed).index(epoch * 100 + place) for place in range(100)]

    assert len({tuple(passing(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_the_order_is_frozen_because_a_release_may_not_change_a_running_job() -> None:
    assert [Order(10, 7).index(place) for place in range(20)] == [0, 4, 2, 8, 9, 6, 3, 7, 1, 5, 5, 2, 8, 0, 9, 7, 4, 1, 3, 6]


@given(size=st.integers(1, 50), batch=st.integers(1, 16), epochs=st.integers(1, 3), seed=st.integers(0, 9))
def test_the_batches_of_a_run_in_epochs_hold_every_sample_exactly_that_often(size: int, batch: int, epochs: int, seed: int) -> None:
    order, end = Order(size, seed), size * epochs
    seen = [index for step in range(-(-end // batch)) for index in order.batch(step, batch, end)]
    assert sorted(seen) == sorted(list(range(size)) * epochs)


@given(
    size=st.integers(1, 60),
    seed=st.integers(0, 2**31 - 1),
    batch=st.integers(1, 16),
    steps=st.integers(1, 30),
    epochs=st.none() | st.integers(1, 3),
)
def test_any_step_asked_for_directly_is_what_iterating_from_the_start_comes_to(
    size: int, seed: int, batch: int, steps: int, epochs: int | None
) -> None:
    end = None if epochs is None else epochs * size
    walked = [Order(size, seed).index(position) for position in range(steps * batch if end is None else end)]
    for step in range(steps):
        # A new object for each: nothing is carried from step to step.
        assert list(Order(size, seed).batch(step, batch, end)) == walked[step * batch : (step + 1) * batch]


@given(size=st.integers(1, 10**12), position=st.integers(0, 10**18))
def test_a_position_far_away_costs_no_more_than_the_first(size: int, position: int) -> None:
    assert 0 <= Order(size, 3).index(position) < size


def test_no_data_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Order(0, 1)


def test_the_digest_tells_order_and_membership() -> None:
    assert len({sample_digest(batch) for batch in [(1, 2), (2, 1), (1,), (1, 2, 3), ()]}) == 5
