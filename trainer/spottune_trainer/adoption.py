"""Another job's state as one of this run: what must be the same, each difference named with its field.

Step counter, history and data cursor go on. So the base model, the adapter's function, the data and their order must be those of
the other job; the length, the learning rate, its schedule and whatever else is applied from the next step on may differ.
"""

from __future__ import annotations

from typing import Any

from spottune_contract.records import Commit, canonical
from spottune_trainer.checkpoint import Files, Unacceptable
from spottune_trainer.errors import BadConfig
from spottune_trainer.history import History
from spottune_trainer.loop import Run
from spottune_trainer.order import sample_digest
from spottune_trainer.state import CLASSES, FORMAT
from spottune_trainer.state_files import TRAINER, document, same_place

_FUNCTION = {"peft_type": "type", "r": "rank", "lora_alpha": "alpha", "use_rslora": "rslora"}
"""What of PEFT's description decides what an adapter's numbers mean, and the fields of `method` that it comes from."""
_MOST_STEPS = 64
"""So many steps of the history are compared at most, the first and the last among them."""


def adopted(commit: Commit, files: Files, run: Run) -> Files:
    """`files` of another job's commit as a state of `run`, for its `load`. Raises `BadConfig` naming what does not fit."""
    try:
        same_place(commit, files)
        stated = document(files, TRAINER)
        _same_kind(stated, run)
        _same_place_in_the_data(commit, run)
        translated = {**files, TRAINER: canonical({**run.identity.document(), CLASSES: stated.get(CLASSES)})}
        decoded = run.check(translated)
    except Unacceptable as error:
        raise _unfit(f"the state does not fit this job's adapter: {error}: method must be as in the other job") from None
    _same_samples(decoded.history, run)
    return translated


def _same_kind(stated: dict[str, Any], run: Run) -> None:
    identity = run.identity
    if stated.get("format") != FORMAT:
        raise _unfit(f"the state has format {stated.get('format')}, this trainer image reads {FORMAT}: use the image of the other job")
    if stated.get("model_fingerprint") != identity.model_fingerprint:
        raise _unfit("model.source: the base model is not that of the other job: an adapter is worth nothing on another one")
    theirs = stated.get("adapter_config")
    theirs = theirs if isinstance(theirs, dict) else {}
    for name, field in _FUNCTION.items():
        if theirs.get(name) != identity.adapter_config.get(name):
            raise _unfit(f"method.{field} is {identity.adapter_config.get(name)}, that of the other job {theirs.get(name)}: use the same")
    if stated.get("dataset_digest") != identity.dataset_digest:
        raise _unfit("dataset.source: the data are not those of the other job, and the place in them could not go on: use the same file")


def _same_place_in_the_data(commit: Commit, run: Run) -> None:
    if commit.step >= run.total_steps:
        raise _unfit(
            f"step {commit.step} is restored and this job has {run.total_steps} steps in all, those of the other job included: "
            "raise training.maxSteps (or epochs)"
        )
    batch = run.training.global_batch_size
    seen = commit.step * batch
    if commit.samples_seen == seen:
        return
    if commit.step and commit.samples_seen % commit.step == 0:
        theirs = commit.samples_seen // commit.step
        raise _unfit(f"training.globalBatchSize is {batch}, that of the other job {theirs}: use the same")
    raise _unfit(
        f"after {commit.step} steps of training.globalBatchSize {batch} it would be {seen} samples, the commit has {commit.samples_seen}: "
        "use the batch of the other job, and of a run in epochs no commit after a smaller last batch"
    )


def _same_samples(history: History, run: Run) -> None:
    """What the other job has learned from, step by step, is what this one would have."""
    for step in {*range(0, history.steps, max(1, history.steps // _MOST_STEPS)), history.steps - 1} - {-1}:
        indices = run.order.batch(step, run.training.global_batch_size, run.stream_end)
        targets = sum(run.samples[index].targets for index in indices)
        if (history.samples[step], history.targets[step]) != (sample_digest(indices), targets):
            raise _unfit(
                f"step {step + 1} of the other job has learned from other samples than this one would: "
                "training.seed, dataset.format, dataset.maxLength and the model's tokenizer must be the same"
            )


def _unfit(what: str) -> BadConfig:
    return BadConfig("ResumeFromUnfit", f"resumeFrom: {what}. resumeFrom cannot be changed: create a new job")
