"""What is measured: SmolLM2-135M with LoRA on samples of equal length, and a store that costs nothing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from examples.prepare_model import prepare_model
from spottune_contract.runspec import RunSpec
from spottune_trainer import rng
from spottune_trainer.checkpoint import CheckpointLog
from spottune_trainer.checkpoint.store import (
    AlreadyExists,
    Body,
    Created,
    Deleted,
    DeleteResult,
    Exists,
    Found,
    GetResult,
    HeadResult,
    Listed,
    ListResult,
    NotFound,
    PutResult,
    Store,
)
from spottune_trainer.loop import Run
from spottune_trainer.method import Adapted, adapt
from spottune_trainer.model import load_model
from spottune_trainer.order import Order, sample_digest
from spottune_trainer.schedule import Schedule
from spottune_trainer.state import Identity
from spottune_trainer.tokens import Sample

SAMPLES, TOKENS = 20_000, 96
GLOBAL_BATCH, MICRO_BATCH = 6, 2
EXAMPLE = {"rank": 8, "alpha": 16, "dropout": 0.05, "targetModules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
"""The adapter of examples/python-help.yaml: a state of 11 MB."""
LARGE = {"rank": 44, "alpha": 88, "targetModules": ["all-linear"]}
"""An adapter whose state has 161 MB."""
CLAIM: Mapping[str, Any] = {"pod_uid": "", "node": "", "spec_hash": "", "image_digest": "", "compute_class": "cpu", "versions": {}}


def spec(method: Mapping[str, Any]) -> RunSpec:
    training = {"maxSteps": 10_000, "globalBatchSize": GLOBAL_BATCH, "microBatchSize": MICRO_BATCH, "learningRate": 5e-4, "cpuThreads": 2}
    return RunSpec.model_validate(
        {
            "model": {"source": str(prepare_model())},
            "dataset": {"source": "/none.jsonl", "maxLength": TOKENS},
            "method": dict(method),
            "training": training,
            "checkpoint": {"storage": "s3://bucket/prefix"},
        }
    )


def model(chosen: RunSpec) -> Adapted:
    """The base model with a fresh adapter, two threads as in the example job."""
    torch.set_num_threads(2)
    source = chosen.model.source
    base = load_model(prepare_model(), source, precision="fp32", gradient_checkpointing=False)
    return adapt(base, chosen.method, chosen.model, seed=7)


def samples() -> list[Sample]:
    """Random tokens: what they say does not matter, that all have the same length does."""
    ids = np.random.default_rng(7).integers(10, 49_000, (SAMPLES, TOKENS), dtype=np.int64)
    return [Sample(row, row, TOKENS - 1) for row in ids]


def make_run(chosen: RunSpec, adapted: Adapted, data: list[Sample]) -> Run:
    total = chosen.training.max_steps
    assert total is not None
    return Run(
        adapted=adapted,
        training=chosen.training,
        identity=Identity(chosen.spec_hash(), "data", "", "model", total, adapted.adapter_config),
        schedule=Schedule(chosen.training.scheduler, chosen.training.learning_rate, 0, total),
        order=Order(len(data), seed=7),
        samples=data,
        eval_samples=(),
        stream_end=None,
        device=torch.device("cpu"),
        compute_class="cpu",
    )


def pretend_steps(run: Run, steps: int) -> None:
    """Put the run at a step without the work of getting there: moments, history and cursor look as they would."""
    for parameter in run.adapted.parameters.values():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    history = run.history
    history.loss, history.learning_rate, history.grad_norm = [2.5] * steps, [5e-4] * steps, [1.0] * steps
    history.targets = [GLOBAL_BATCH * (TOKENS - 1)] * steps
    history.samples = [sample_digest((step,)) for step in range(steps)]
    run.step, run.generators = steps, rng.capture()


def claimed(store: Store, epoch: int = 1) -> CheckpointLog:
    """A log that is owned and resumed at step 0."""
    log = CheckpointLog(store, epoch=epoch)
    log.claim(**CLAIM)
    log.resume(lambda commit, files: None)
    return log


class Sink:
    """A store that keeps the log and of data only the sizes."""

    name = "sink"

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()

    def put(self, key: str, body: Body) -> PutResult:
        with self._lock:
            if key in self._sizes:
                return AlreadyExists()
            self._sizes[key] = len(body)
            if not key.startswith("data/"):
                self._records[key] = bytes(body)
            return Created()

    def get(self, key: str, limit: int) -> GetResult:
        found = self._records.get(key)
        return NotFound() if found is None else Found(found)

    def head(self, key: str) -> HeadResult:
        size = self._sizes.get(key)
        return NotFound() if size is None else Exists(size)

    def list(self, prefix: str, start_after: str) -> ListResult:
        with self._lock:
            return Listed(tuple(sorted(key for key in self._sizes if key.startswith(prefix) and key > start_after)), more=False)

    def delete(self, key: str) -> DeleteResult:
        with self._lock:
            self._sizes.pop(key, None)
            return Deleted()

    def reconnect(self, *, renew: bool = False) -> None:
        pass
