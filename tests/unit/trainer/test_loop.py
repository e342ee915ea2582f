"""Resuming equals not having stopped, to the bit, wherever the interruption falls."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from spottune_trainer import rng
from spottune_trainer.loop import Ending, NonFinite, Run, collate, evaluate, optimizer_step, summed_loss, train
from spottune_trainer.order import sample_digest
from spottune_trainer.tokens import IGNORED, Sample

MakeRun = Callable[..., Run]


@pytest.fixture(scope="module")
def whole(make_run: MakeRun) -> Mapping[str, bytes]:
    """The state at the end of an uninterrupted run."""
    from tests.unit.trainer.conftest import Quiet

    run = make_run()
    assert train(run, Quiet()) is Ending.FINISHED
    return run.save()


class StopAfter:
    """Stops at the nth chance of any kind: boundary, micro-batch or evaluation batch."""

    def __init__(self, chances: int) -> None:
        self.left = chances

    def _chance(self, *_: Any) -> bool:
        self.left -= 1
        return self.left < 0

    boundary = micro_batch = evaluating = _chance

    def step_finished(self, run: Run, seconds: float, tokens: int) -> None:
        pass

    def evaluated(self, run: Run, loss: float) -> None:
        pass


def test_many_random_interruptions_change_nothing(make_run: MakeRun, whole: Mapping[str, bytes]) -> None:
    chosen = random.Random(20261123)
    for _ in range(4):
        files, lives = None, 0
        while True:
            run = make_run()
            if files is not None:
                run.load(files)
            rng.seed_all(chosen.randint(0, 9))  # whatever else draws random numbers
            lives += 1
            watch = StopAfter(chosen.randint(1, 40))
            if train(run, watch) is Ending.FINISHED:
                break
            files = run.save()
        assert run.save() == whole, f"after {lives} lives"


def test_the_state_in_mid_accumulation_is_that_of_the_last_finished_step(make_run: MakeRun, quiet: Any) -> None:
    run = make_run()
    assert evaluate(run, quiet)
    assert optimizer_step(run, quiet)
    before = run.save()
    assert not optimizer_step(run, StopAfter(2))
    assert run.save() == before
    assert all(p.grad is None for p in run.adapted.parameters.values())


def test_saving_in_the_middle_of_a_step_does_not_disturb_it(make_run: MakeRun, whole: Mapping[str, bytes], quiet: Any) -> None:
    quiet.micro_batch = lambda run, *_: not run.save()
    run = make_run()
    train(run, quiet)
    assert run.save() == whole


def test_an_evaluation_leaves_every_generator_as_it_was(make_run: MakeRun, quiet: Any) -> None:
    run = make_run()
    before = rng.capture()
    quiet.evaluating = lambda _run: random.random() + np.random.rand() + torch.rand(()).item() < 0
    assert evaluate(run, quiet)
    after = rng.capture()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_evaluation_that_was_stopped_is_made_once_after_the_resume(make_run: MakeRun, quiet: Any) -> None:
    run = make_run()
    stopping = StopAfter(0)
    assert not evaluate(run, stopping)
    files = run.save()
    again = make_run()
    again.load(files)
    train(again, quiet)
    assert again.history.eval_step == [0, 3, 6, 8]


def test_the_history_proves_which_samples_were_seen_and_what_rate_was_used(make_run: MakeRun, quiet: Any) -> None:
    run = make_run()
    train(run, quiet)
    assert run.history.samples == [sample_digest(run.order.batch(step, 8, None)) for step in range(8)]
    assert run.history.learning_rate == [run.schedule.rate(step) for step in range(8)]
    assert run.samples_seen == 64
    assert all(map(math.isfinite, run.history.loss + run.history.grad_norm))


def test_a_run_in_epochs_ends_with_a_smaller_batch_and_counts_every_sample(make_run: MakeRun, quiet: Any) -> None:
    run = make_run(maxSteps=None, epochs=1, globalBatchSize=12, microBatchSize=3)
    assert run.total_steps == 4
    train(run, quiet)
    assert run.samples_seen == 40
    assert run.history.samples[-1] == sample_digest(tuple(run.order.index(place) for place in range(36, 40)))


def test_the_loss_weighs_every_token_of_the_global_batch_the_same_whatever_the_micro_batch(
    make_run: MakeRun, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    for micro in (1, 2, 8):
        run = make_run(microBatchSize=micro, maxSteps=1, evalSteps=None)
        run.adapted.model.eval()
        monkeypatch.setattr(run.adapted.model, "train", lambda _mode=True: None)  # no dropout: only the sums differ
        train(run, quiet)
        states.append((run.history.loss[0], run.history.grad_norm[0]))
    assert states[1] == pytest.approx(states[0], rel=1e-4)
    assert states[2] == pytest.approx(states[0], rel=1e-4)


def test_training_learns(make_run: MakeRun, quiet: Any) -> None:
    run = make_run(maxSteps=16, learningRate=0.05)
    train(run, quiet)
    assert run.history.eval_loss[-1] < run.history.eval_loss[0] - 0.05


def test_only_the_adapter_changes(make_run: MakeRun, quiet: Any) -> None:
    run = make_run()
    frozen = {name: p.detach().clone() for name, p in run.adapted.model.named_parameters() if not p.requires_grad}
    train(run, quiet)
    assert frozen
    assert all(torch.equal(p, frozen[name]) for name, p in run.adapted.model.named_parameters() if name in frozen)


@pytest.mark.parametrize("what", ["weights", "loss"])
def test_what_is_not_finite_is_neither_applied_nor_saved(make_run: MakeRun, quiet: Any, what: str) -> None:
    run = make_run()
    evaluate(run, quiet)
    optimizer_step(run, quiet)
    good = run.save()
    parameter = next(iter(run.adapted.parameters.values()))
    if what == "weights":
        with torch.no_grad():
            parameter[0, 0] = math.nan
        with pytest.raises(NonFinite, match="the adapter is not finite"):
            run.save()
    else:

        def overflow(_module: Any, _inputs: Any, output: Any) -> Any:
            output.logits = output.logits * math.inf
            return output

        handle = run.adapted.model.register_forward_hook(overflow)
        with pytest.raises(NonFinite, match="is not finite in step 2"):
            optimizer_step(run, quiet)
        handle.remove()
        run.optimizer.zero_grad()
        assert run.save() == good


def test_gradient_checkpointing_computes_the_same(make_run: MakeRun, quiet: Any) -> None:
    plain, checkpointed = make_run(maxSteps=2), make_run(maxSteps=2, gradientCheckpointing=True)
    train(plain, quiet)
    train(checkpointed, quiet)
    assert checkpointed.history.loss == pytest.approx(plain.history.loss, rel=1e-7)


def test_bf16_keeps_adapter_and_optimizer_in_fp32(make_run: MakeRun, quiet: Any) -> None:
    run = make_run(maxSteps=2, precision="bf16")
    train(run, quiet)
    dtypes = {p.dtype for p in run.adapted.model.parameters() if not p.requires_grad}
    assert dtypes == {torch.bfloat16}
    assert {p.dtype for p in run.adapted.parameters.values()} == {torch.float32}
    files = run.save()
    again = make_run(maxSteps=2, precision="bf16")
    again.load(files)
    assert again.save() == files


def test_a_batch_is_padded_at_the_end_and_padding_is_neither_seen_nor_learned(make_run: MakeRun) -> None:
    def sample(*ids: int) -> Sample:
        return Sample(np.array(ids, dtype=np.int64), np.array([IGNORED, *ids[1:]], dtype=np.int64), len(ids) - 1)

    short, long = sample(5, 6, 7), sample(9, 8, 7, 6, 5)
    batch = collate([long, short], torch.device("cpu"))
    assert batch.ids.tolist() == [[9, 8, 7, 6, 5], [5, 6, 7, 0, 0]]
    assert batch.labels[1].tolist() == [IGNORED, 6, 7, IGNORED, IGNORED]
    assert batch.mask is not None
    assert batch.mask.tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert collate([short], torch.device("cpu")).mask is None
    model = make_run().adapted.model.eval()
    alone = sum(summed_loss(model, collate([s], torch.device("cpu"))).item() for s in (short, long))
    assert summed_loss(model, batch).item() == pytest.approx(alone, rel=1e-5)
