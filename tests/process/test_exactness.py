"""A run that is interrupted up to twenty times, and its uninterrupted twin: adapter, optimizer, losses, rates and samples are equal.

Each run is a function of its seed, which is the test's id. `EXACTNESS_RUNS` (200) and `EXACTNESS_FIRST_SEED` (1000) choose the
campaign of `make test-long`.
"""

from __future__ import annotations

import os
import signal

import pytest

from tests.fixtures.exactness import PROPERTY, final_state, run_beside_its_twin
from tests.fixtures.trainerprocess import Bench

pytestmark = [pytest.mark.process, pytest.mark.storage]

RUNS, FIRST = int(os.environ.get("EXACTNESS_RUNS", "200")), int(os.environ.get("EXACTNESS_FIRST_SEED", "1000"))


def beside_its_twin(bench: Bench, seed: int, request: pytest.FixtureRequest) -> None:
    played = run_beside_its_twin(bench, seed)
    assert played.happened, "nothing has interrupted this run: choose another seed"
    told = {
        "seed": seed,
        "attempts": played.attempts,
        "interruptions": sum(played.happened.values()),
        "happened": dict(played.happened),
    }
    request.node.user_properties.append((PROPERTY, told))


@pytest.mark.parametrize("seed", [1, 3, 8], ids=lambda seed: f"seed{seed}")
def test_an_interrupted_run_equals_its_twin(bench: Bench, seed: int, request: pytest.FixtureRequest) -> None:
    beside_its_twin(bench, seed, request)


def test_another_micro_batch_in_mid_job_keeps_the_samples_and_is_told_for_good(bench: Bench) -> None:
    twin, job = bench.job(), bench.job()
    theirs = twin.start(1)
    for epoch, (micro, reason) in enumerate([(2, "FirstAttempt"), (4, "MicroBatchChanged"), (2, "MicroBatchChanged")], 1):
        job.spec["training"]["microBatchSize"] = micro
        trainer = job.start(epoch)
        trainer.event("restored")
        if epoch < 3:
            trainer.at_step(3 * epoch)
            trainer.signal(signal.SIGTERM)
        word = trainer.ended(10 if epoch < 3 else 0)
        assert word.exactness is not None
        assert (word.exactness.reason, word.exactness.exact) == (reason, epoch == 1)
    assert word.exactness.changed == ["microBatch 2 → 4"]
    assert f"microBatch={micro}" in word.exactness.compute_class
    assert word.log is not None
    theirs.ended(0)
    (_, expected), (_, actual) = final_state(bench, twin), final_state(bench, job)
    for column in ("samples", "targets", "learning_rate", "eval.step"):
        assert actual[column] == expected[column], column
    assert actual["loss"] != expected["loss"]
    assert actual["loss"] == pytest.approx(expected["loss"], rel=0.01)  # docs/exactness.md: with dropout


@pytest.mark.long
@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS), ids=lambda seed: f"seed{seed}")
def test_of_hundreds_of_interrupted_runs_every_one_equals_its_twin(bench: Bench, seed: int, request: pytest.FixtureRequest) -> None:
    beside_its_twin(bench, seed, request)
