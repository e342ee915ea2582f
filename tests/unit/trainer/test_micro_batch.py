"""Another micro-batch in mid-run: the same samples in the same order, and losses that stay as near as docs/exactness.md says."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from spottune_trainer.loop import Run, train

MakeRun = Callable[..., Run]

STEPS, USUAL = 16, 2
WITHOUT_DROPOUT, WITH_DROPOUT = 1e-5, 0.01
"""Largest relative difference of a loss. Without dropout only sums are rounded in another order, with it other masks are drawn."""


class Until:
    """Stops before this step."""

    def __init__(self, quiet: Any, step: int) -> None:
        self._quiet, self._step = quiet, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._quiet, name)

    def boundary(self, run: Run) -> bool:
        return run.step >= self._step


def changed(make_run: MakeRun, quiet: Any, chosen: random.Random, **spec: Any) -> Run:
    """A run that is interrupted twice: it goes on with another micro-batch, then with the usual one again."""
    first, second = sorted(chosen.sample(range(1, STEPS), 2))
    run = make_run(microBatchSize=USUAL, **spec)
    for step, micro in ((first, chosen.choice((1, 4, 8))), (second, USUAL)):
        train(run, Until(quiet, step))
        files = run.save()
        run = make_run(microBatchSize=micro, **spec)
        run.load(files)
    train(run, quiet)
    return run


def largest_difference(make_run: MakeRun, quiet: Any, seed: int, dropout: float) -> float:
    """Of any training or evaluation loss, relative; samples, learning rates and target counts are required to be equal."""
    spec = {"dropout": dropout, "maxSteps": STEPS, "seed": seed}
    twin = make_run(microBatchSize=USUAL, **spec)
    train(twin, quiet)
    run = changed(make_run, quiet, random.Random(seed), **spec)
    assert run.history.samples == twin.history.samples
    assert run.history.learning_rate == twin.history.learning_rate
    assert run.history.targets == twin.history.targets
    assert run.history.eval_step == twin.history.eval_step
    assert not run.makers.one
    ours, theirs = (r.history.loss + r.history.eval_loss for r in (run, twin))
    assert ours != theirs
    return max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("dropout", "bound"), [(0.0, WITHOUT_DROPOUT), (0.1, WITH_DROPOUT)])
def test_another_micro_batch_keeps_samples_and_rates_and_bounds_the_losses(
    make_run: MakeRun, quiet: Any, dropout: float, bound: float
) -> None:
    assert largest_difference(make_run, quiet, 7, dropout) <= bound


@pytest.mark.long
@pytest.mark.parametrize(("dropout", "bound"), [(0.0, WITHOUT_DROPOUT), (0.1, WITH_DROPOUT)])
@pytest.mark.parametrize("seed", range(100, 120))
def test_the_bound_holds_for_many_seeds(
    make_run: MakeRun, quiet: Any, seed: int, dropout: float, bound: float, record_property: Callable[[str, object], None]
) -> None:
    found = largest_difference(make_run, quiet, seed, dropout)
    record_property("largest relative difference of a loss", found)
    assert found <= bound
