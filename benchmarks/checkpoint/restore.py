"""From a loaded model to the loss of the first batch after a resume, next to Hugging Face's Trainer, early and late in an epoch."""

from __future__ import annotations

import json
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from benchmarks.checkpoint.example import CLAIM, EXAMPLE, GLOBAL_BATCH, MICRO_BATCH, claimed, make_run, model, pretend_steps, samples, spec
from benchmarks.report import Figure, interval
from benchmarks.servers import job_store, seaweedfs
from spottune_contract.runspec import RunSpec
from spottune_trainer.checkpoint import CheckpointLog, Store
from spottune_trainer.loop import Run, collate, summed_loss
from spottune_trainer.method import Adapted
from spottune_trainer.tokens import Sample

EARLY, LATE = 30, 3300
"""Finished optimizer steps; the epoch has 3,333."""


class _Rows(Dataset[dict[str, Any]]):
    def __init__(self, data: Sequence[Sample]) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._data[index]
        return {"input_ids": row.ids, "labels": row.labels}


class _FirstLossError(Exception):
    pass


class Took(NamedTuple):
    """Seconds from a loaded model."""

    ready: float
    """Until the first batch can go into the model."""
    total: float
    """Until its loss is known."""


def measure(quick: bool) -> Sequence[Figure]:
    """Imports, model loading and opening the store are outside of the clock on both sides; on ours probe, claim, download and hashes are inside."""
    chosen, data = spec(EXAMPLE), samples()
    folder = Path(tempfile.mkdtemp(prefix="spottune-bench-"))
    took: dict[tuple[str, int], list[Took]] = {(side, at): [] for side in ("ours", "hf") for at in (EARLY, LATE)}
    adapted = model(chosen)
    try:
        with seaweedfs() as server:
            stores = {at: job_store(server) for at in (EARLY, LATE)}
            for at, store in stores.items():
                _commit(chosen, adapted, data, store, at)
            _hf_checkpoints(adapted, data, folder)
            for turn in range(2 if quick else 8):
                order = list(took)
                for side, at in order if turn % 2 == 0 else reversed(order):
                    ours = side == "ours"
                    seconds = _ours(chosen, adapted, data, stores[at], turn + 2) if ours else _hf(adapted, data, folder, at)
                    if turn:  # the first warms up
                        took[side, at].append(seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures = [_figure(f"restore and first batch at step {at}", took["ours", at], took["hf", at]) for at in (EARLY, LATE)]
    early, late = ([one.ready for one in took["ours", at]] for at in (EARLY, LATE))
    hf = statistics.median(one.ready for one in took["hf", LATE]) / statistics.median(one.ready for one in took["hf", EARLY])
    detail = f"{_text(late)} and {_text(early)}, without the batch; HF: {hf:.2f} ×; the history grows by 72 bytes a step"
    return [
        *figures,
        Figure("restore late in the epoch to early", statistics.median(late) / statistics.median(early), "×", goal=1.1, detail=detail),
    ]


def _figure(name: str, ours: list[Took], hf: list[Took]) -> Figure:
    ratio = statistics.median(one.total for one in ours) / statistics.median(one.total for one in hf)
    ready = statistics.median(one.ready for one in ours), statistics.median(one.ready for one in hf)
    batch = [one.total - one.ready for one in (*ours, *hf)]
    detail = (
        f"ours {_text([one.total for one in ours])}, HF {_text([one.total for one in hf])}; the batch alone, the same on both sides, {_text(batch)}; "
        f"without it ours {ready[0]:.2f} s, HF {ready[1]:.2f} s: {ready[0] / ready[1]:.2f} ×"
    )
    return Figure(name, ratio, "× HF Trainer", goal=0.5, detail=detail)


def _text(values: list[float]) -> str:
    low, high = interval(values)
    return f"{statistics.median(values):.2f} s ({low:.2f} to {high:.2f})"


def _commit(chosen: RunSpec, adapted: Adapted, data: list[Sample], store: Store, steps: int) -> None:
    run = make_run(chosen, adapted, data)
    pretend_steps(run, steps)
    claimed(store).commit(run.save(), step=run.step, samples_seen=run.samples_seen, reason="interval")


def _ours(chosen: RunSpec, adapted: Adapted, data: list[Sample], store: Store, epoch: int) -> Took:
    started = time.perf_counter()
    run = make_run(chosen, adapted, data)
    log = CheckpointLog(store, epoch=epoch)
    log.probe()
    log.claim(**CLAIM)
    restored = log.resume(lambda commit, files: _check(run, files))
    assert restored is not None
    run.load(restored.files)
    adapted.model.train()
    indices = run.order.batch(run.step, GLOBAL_BATCH, None)
    batch = collate([data[index] for index in indices[:MICRO_BATCH]], run.device)
    ready = time.perf_counter() - started
    summed_loss(adapted.model, batch).item()
    return Took(ready, time.perf_counter() - started)


def _check(run: Run, files: Any) -> None:
    run.check(files)


def _trainer(adapted: Adapted, data: list[Sample], folder: Path, *, steps: int, stop: bool) -> Any:
    import transformers

    transformers.utils.logging.set_verbosity_error()

    class Stopping(transformers.Trainer):  # type: ignore[misc]
        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            reached = time.perf_counter()
            loss = super().compute_loss(*arguments, **named)
            if stop:
                (loss[0] if isinstance(loss, tuple) else loss).item()
                raise _FirstLossError(reached)
            return loss

    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=GLOBAL_BATCH // MICRO_BATCH,
        max_steps=steps,
        learning_rate=5e-4,
        save_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_steps=1_000_000,
        seed=7,
    )
    return Stopping(model=adapted.model, args=arguments, train_dataset=_Rows(data))


def _hf_checkpoints(adapted: Adapted, data: list[Sample], folder: Path) -> None:
    """One real checkpoint of the Trainer after a step, and copies that say they were made later."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    _trainer(adapted, data, folder, steps=1, stop=False).train()
    for at in (EARLY, LATE):
        target = folder / f"at-{at}"
        shutil.copytree(folder / "checkpoint-1", target)
        state = json.loads((target / "trainer_state.json").read_text())
        state["global_step"] = at
        (target / "trainer_state.json").write_text(json.dumps(state))


def _hf(adapted: Adapted, data: list[Sample], folder: Path, at: int) -> Took:
    torch.set_num_threads(2)
    started = time.perf_counter()
    try:
        _trainer(adapted, data, folder, steps=10_000, stop=True).train(resume_from_checkpoint=str(folder / f"at-{at}"))
    except _FirstLossError as first:
        return Took(first.args[0] - started, time.perf_counter() - started)
    raise AssertionError("the Trainer ended without a batch")
