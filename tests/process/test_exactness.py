"""A run that is interrupted up to twenty times, and its uninterrupted twin: adapter, optimizer, losses, rates and samples are equal.

Each run is a function of its seed, which is the test's id. `EXACTNESS_RUNS` (200) and `EXACTNESS_FIRST_SEED` (1000) choose the
campaign of `make test-long`.
"""

from __future__ import annotations

import os

import pytest

from tests.fixtures.exactness import PROPERTY, run_beside_its_twin
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


@pytest.mark.parametrize("seed", [1, 2, 3, 4], ids=lambda seed: f"seed{seed}")
def test_an_interrupted_run_equals_its_twin(bench: Bench, seed: int, request: pytest.FixtureRequest) -> None:
    beside_its_twin(bench, seed, request)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS), ids=lambda seed: f"seed{seed}")
def test_of_hundreds_of_interrupted_runs_every_one_equals_its_twin(bench: Bench, seed: int, request: pytest.FixtureRequest) -> None:
    beside_its_twin(bench, seed, request)
