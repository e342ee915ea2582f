"""A tiny run in memory: real model, real tokenizer, real data, built anew as often as wanted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# Before torch is imported anywhere: spinning threads on a busy machine cost a hundred times the work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from spottune_contract.runspec import RunSpec

if TYPE_CHECKING:
    from spottune_trainer.loop import Run


class Quiet:
    """A watch that never stops anything; tests override one method."""

    def boundary(self, run: Run) -> bool:
        return False

    def micro_batch(self, run: Run, done: int, of: int, seconds: float) -> bool:
        return False

    def step_finished(self, run: Run, seconds: float, tokens: int) -> None:
        pass

    def evaluating(self, run: Run) -> bool:
        return False

    def evaluated(self, run: Run, loss: float) -> None:
        pass


def spec(folder: Path, dropout: float = 0.1, **training: Any) -> RunSpec:
    base = {
        "maxSteps": 8,
        "globalBatchSize": 8,
        "microBatchSize": 2,
        "learningRate": 0.01,
        "warmupSteps": 2,
        "evalSteps": 3,
        "seed": 7,
        "cpuThreads": 1,
    }
    return RunSpec.model_validate(
        {
            "model": {"source": str(folder)},
            "dataset": {"source": str(folder / "train.jsonl"), "evalSource": str(folder / "eval.jsonl"), "maxLength": 48},
            "method": {"rank": 4, "alpha": 8, "dropout": dropout},
            "training": {name: value for name, value in (base | training).items() if value is not None},
            "checkpoint": {"storage": "s3://bucket/prefix"},
        }
    )


MakeRun = Callable[..., "Run"]


@pytest.fixture(scope="session")
def make_run(tiny_model: Path) -> MakeRun:
    """`make_run(dropout=0.1, **training)`: a new run at step 0."""
    from spottune_trainer.build import build_run
    from spottune_trainer.sources import locate

    def make(**training: Any) -> Run:
        chosen = spec(tiny_model, **training)
        sources = locate(chosen.model, chosen.dataset, scratch=tiny_model, objects=lambda: pytest.fail("no store is needed"))
        return build_run(chosen, sources, f"accelerator=cpu; microBatch={chosen.training.micro_batch_size}")[0]

    return make


@pytest.fixture
def quiet() -> Quiet:
    return Quiet()
