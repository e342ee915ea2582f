from __future__ import annotations

import pytest

from spottune_trainer.schedule import Schedule


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_warm_up_rises_linearly_from_the_first_step_to_the_peak(kind: str) -> None:
    schedule = Schedule(kind, 1.0, 4, 20)  # type: ignore[arg-type]
    assert [schedule.rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_constant_stays_at_the_peak() -> None:
    assert Schedule("constant", 0.3, 0, 10).rate(9) == 0.3


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_rate_falls_after_the_warm_up_and_reaches_zero_after_the_last_step(kind: str) -> None:
    schedule = Schedule(kind, 1.0, 2, 12)  # type: ignore[arg-type]
    rates = [schedule.rate(step) for step in range(2, 13)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert schedule.rate(7) == pytest.approx(0.5)


def test_a_warm_up_longer_than_the_run_never_divides_by_zero() -> None:
    schedule = Schedule("cosine", 1.0, 10, 5)
    assert [schedule.rate(step) for step in range(5)] == [0.1, 0.2, 0.3, 0.4, 0.5]
