"""The training loop: explicit, and interruptible between any two micro-batches without losing a finished step.

Parameters, optimizer and history change only in one place, at the end of an optimizer step. So the state of the last finished
step can be saved at any time, in mid-accumulation too: only the random number generators have moved on by then, and those are
kept from the step boundary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as functional

from spottune_contract.runspec import TrainingSpec
from spottune_trainer import rng, state
from spottune_trainer.arena import Arena
from spottune_trainer.checkpoint import Files
from spottune_trainer.checkpoint.transfer import digest_of
from spottune_trainer.exactness import Makers
from spottune_trainer.history import History
from spottune_trainer.method import Adapted
from spottune_trainer.order import Order, sample_digest
from spottune_trainer.schedule import Schedule
from spottune_trainer.snapshot import Snapshots, Taken
from spottune_trainer.state_files import TRAINER
from spottune_trainer.tokens import IGNORED, Sample


class NonFinite(ArithmeticError):
    """A loss, gradient norm or parameter is not a finite number. Nothing of that step was or may be saved."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} is not finite in step {step}")
        self.step, self.what = step, what


class Ending(Enum):
    FINISHED = auto()
    STOPPED = auto()
    """The watch asked for it; the last finished step is what counts."""


class Watch(Protocol):
    """What surrounds the loop: commits, signals, reports. None of it changes what is computed."""

    def boundary(self, run: Run) -> bool:
        """Between two optimizer steps. True: stop here."""
        ...

    def micro_batch(self, run: Run, done: int, of: int, seconds: float) -> bool:
        """After each micro-batch but the last of a step. True: drop the accumulated gradients and stop."""
        ...

    def step_finished(self, run: Run, seconds: float, tokens: int) -> None: ...

    def evaluating(self, run: Run) -> bool:
        """Between two evaluation batches. True: give this evaluation up and stop."""
        ...

    def evaluated(self, run: Run, loss: float) -> None: ...


@dataclass(frozen=True)
class Batch:
    """A micro-batch on the device, padded at the end: `ids` and `labels` of shape [samples, longest], int64."""

    ids: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor | None
    """None if nothing is padded."""


@dataclass
class Run:
    """One fine-tuning run in memory."""

    adapted: Adapted
    training: TrainingSpec
    identity: state.Identity
    schedule: Schedule
    order: Order
    samples: Sequence[Sample]
    eval_samples: Sequence[Sample]
    stream_end: int | None
    """Samples of the whole run if it is given in epochs; None if it is given in steps."""
    device: torch.device
    compute_class: str
    """Of this process."""
    optimizer: torch.optim.Optimizer = field(init=False)
    history: History = field(default_factory=History)
    step: int = 0
    """Finished optimizer steps."""
    generators: rng.Generators = field(init=False)
    """Of the last step boundary."""
    arena: Arena = field(init=False)
    snapshots: Snapshots = field(init=False)
    makers: Makers = field(init=False)
    """What has computed the steps so far, this process included."""

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(
            list(self.adapted.parameters.values()), lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=self.training.weight_decay
        )
        self.arena = Arena(self.adapted.parameters, self.optimizer)
        self.snapshots = Snapshots(self.arena)
        rng.seed_all(self.training.seed)
        self.generators = rng.capture()
        self.makers = Makers().joined_by(self.compute_class, self.step)

    @property
    def total_steps(self) -> int:
        return self.identity.total_steps

    @property
    def samples_seen(self) -> int:
        seen = self.step * self.training.global_batch_size
        return seen if self.stream_end is None else min(seen, self.stream_end)

    @property
    def loss(self) -> float | None:
        return self.history.loss[-1] if self.history.loss else None

    @property
    def eval_loss(self) -> float | None:
        return self.history.eval_loss[-1] if self.history.eval_loss else None

    def save(self) -> dict[str, bytes | memoryview]:
        """The state of the last finished step, in memory that stays as it is while anybody holds a view of it.

        Raises `NonFinite` if the adapter must not be saved.
        """
        taken = self.snapshots.take(stepped=self.step > 0)
        if not taken.finite:
            raise NonFinite(self.step, "the adapter")
        return self._encoded(taken, self.generators)

    def _encoded(self, taken: Taken, generators: rng.Generators) -> dict[str, bytes | memoryview]:
        return state.encode(
            identity=self.identity,
            cursor=state.Cursor(self.step, self.samples_seen),
            taken=taken,
            history=self.history,
            generators=generators,
            makers=self.makers,
        )

    def check(self, files: Files) -> state.Decoded:
        """Raises `Unacceptable` unless `files` are a state of this run."""
        return state.decode(files, identity=self.identity, parameters=self.adapted.parameters)

    def load(self, files: Files) -> None:
        """Go on from a saved state."""
        decoded = self.check(files)
        state.apply(decoded, self.arena)
        self.step, self.history, self.generators = decoded.cursor.step, decoded.history, decoded.generators
        self.makers = decoded.makers.joined_by(self.compute_class, self.step)

    def live_digests(self) -> dict[str, str]:
        """Digest of each file of the state as it is in memory now, generators included. Right after `load` they are the loaded ones'.

        Without `trainer.json`: it describes the run, `check` compares it.
        """
        here = rng.capture()
        # A state may have generators of GPUs that are not here, and lack those of GPUs that are.
        generators = {name: here.get(name, saved) for name, saved in self.generators.items()}
        files = self._encoded(self.snapshots.take(stepped=self.step > 0), generators)
        return {name: digest_of(data) for name, data in files.items() if name != TRAINER}

    def evaluation_due(self) -> bool:
        """Before the first step (the base model), after every `evalSteps`, and at the end; once each."""
        if not self.eval_samples or self.history.eval_step[-1:] == [self.step]:
            return False
        every = self.training.eval_steps
        return self.step in (0, self.total_steps) or (every is not None and self.step % every == 0)


def train(run: Run, watch: Watch) -> Ending:
    """Train to the last step, or until the watch stops it. Raises `NonFinite`."""
    rng.restore(run.generators)  # whatever was drawn since the run was built or loaded
    while True:
        if run.evaluation_due() and not evaluate(run, watch):
            return Ending.STOPPED
        if run.step >= run.total_steps:
            return Ending.FINISHED
        if watch.boundary(run) or not optimizer_step(run, watch):
            return Ending.STOPPED


def optimizer_step(run: Run, watch: Watch) -> bool:
    """One step over a global batch. False: the watch stopped it half-way, and nothing but the generators has changed."""
    started = time.monotonic()
    training, parameters = run.training, list(run.adapted.parameters.values())
    indices = run.order.batch(run.step, training.global_batch_size, run.stream_end)
    # Within a step the order does not matter to the result's meaning; by length, micro-batches have the least padding.
    chosen = sorted((run.samples[i] for i in indices), key=lambda sample: -len(sample.ids))
    targets = sum(sample.targets for sample in chosen)
    micro = training.micro_batch_size
    chunks = [chosen[i : i + micro] for i in range(0, len(chosen), micro)]
    run.adapted.model.train()
    run.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for done, chunk in enumerate(chunks, 1):
        before = time.monotonic()
        loss = summed_loss(run.adapted.model, collate(chunk, run.device))
        # Every target token of the global batch weighs the same, whatever micro-batch it is in.
        (loss / targets).backward()  # type: ignore[no-untyped-call]
        total += loss.item()
        if done < len(chunks) and watch.micro_batch(run, done, len(chunks), time.monotonic() - before):
            run.optimizer.zero_grad(set_to_none=True)
            return False
    _update(run, parameters, total / targets, targets, indices)
    watch.step_finished(run, time.monotonic() - started, sum(len(sample.ids) for sample in chosen))
    return True


def _update(run: Run, parameters: list[torch.nn.Parameter], loss: float, targets: int, indices: tuple[int, ...]) -> None:
    """The only place where parameters, optimizer and history change."""
    limit = run.training.max_grad_norm
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit))
    if not math.isfinite(loss):
        raise NonFinite(run.step + 1, "the loss")
    if not math.isfinite(norm):
        raise NonFinite(run.step + 1, "the gradient norm")
    rate = run.schedule.rate(run.step)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    history = run.history
    history.loss.append(loss)
    history.learning_rate.append(rate)
    history.grad_norm.append(norm)
    history.targets.append(targets)
    history.samples.append(sample_digest(indices))
    run.step += 1
    run.generators = rng.capture()


def evaluate(run: Run, watch: Watch) -> bool:
    """Mean loss per target token over the evaluation data. Leaves every generator as it was. False: stopped by the watch."""
    model, micro = run.adapted.model, run.training.micro_batch_size
    ordered = sorted(run.eval_samples, key=lambda sample: -len(sample.ids))
    before = rng.capture()
    model.eval()
    total = 0.0
    try:
        with torch.no_grad():
            for first in range(0, len(ordered), micro):
                if watch.evaluating(run):
                    return False
                total += summed_loss(model, collate(ordered[first : first + micro], run.device)).item()
    finally:
        model.train()
        rng.restore(before)
    loss = total / sum(sample.targets for sample in ordered)
    if not math.isfinite(loss):
        raise NonFinite(run.step, "the evaluation loss")
    run.history.eval_step.append(run.step)
    run.history.eval_loss.append(loss)
    watch.evaluated(run, loss)
    return True


def summed_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Cross entropy summed over the target tokens of a micro-batch, float32, shape []."""
    logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits[:, :-1]
    targets = batch.labels[:, 1:]
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def collate(samples: Sequence[Sample], device: torch.device) -> Batch:
    """Pad at the end to the longest sample."""
    longest = max(len(sample.ids) for sample in samples)
    ids = np.zeros((len(samples), longest), dtype=np.int64)
    labels = np.full((len(samples), longest), IGNORED, dtype=np.int64)
    mask = np.zeros((len(samples), longest), dtype=np.int64)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = sample.ids
        labels[row, : len(sample.labels)] = sample.labels
        mask[row, : len(sample.ids)] = 1
    padding = None if mask.all() else torch.from_numpy(mask).to(device)
    return Batch(torch.from_numpy(ids).to(device), torch.from_numpy(labels).to(device), padding)
