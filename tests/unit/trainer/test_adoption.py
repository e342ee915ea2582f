"""What of another job's state must be the same as here, and what may differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from spottune_contract.records import Commit
from spottune_trainer.adoption import adopted
from spottune_trainer.errors import BadConfig
from spottune_trainer.loop import Run, optimizer_step
from spottune_trainer.state_files import TRAINER
from tests.unit.trainer.conftest import Quiet

MakeRun = Callable[..., Run]
Saved = tuple[Commit, dict[str, bytes]]


@pytest.fixture(scope="module")
def saved(make_run: MakeRun) -> Saved:
    """Three steps of another job."""
    run = make_run()
    for _ in range(3):
        optimizer_step(run, Quiet())
    files = {name: bytes(data) for name, data in run.save().items()}
    return Commit(slot=4, epoch=1, writer="v" * 8, save="s" * 8, step=3, samples_seen=24, reason="interval", files=()), files


def restated(saved: Saved, **changes: Any) -> Saved:
    document = json.loads(saved[1][TRAINER]) | changes
    return saved[0], {**saved[1], TRAINER: json.dumps(document).encode()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"maxSteps": 20},
        {"learningRate": 0.001, "scheduler": "linear", "warmupSteps": 0},
        {"weightDecay": 0.1, "maxGradNorm": 0.5, "evalSteps": None, "microBatchSize": 4},
        {"dropout": 0.0},
        {"maxSteps": None, "epochs": 2},
    ],
    ids=str,
)
def test_what_is_applied_from_the_next_step_on_may_differ(saved: Saved, make_run: MakeRun, changes: dict[str, Any]) -> None:
    run = make_run(**changes)
    run.load(adopted(*saved, run))
    assert (run.step, run.history.steps) == (3, 3)
    own = run.save()
    assert {name: bytes(data) for name, data in own.items() if name != TRAINER} == {n: d for n, d in saved[1].items() if n != TRAINER}
    assert json.loads(bytes(own[TRAINER]))["spec_hash"] == run.identity.spec_hash
    optimizer_step(run, Quiet())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no step left": ({"maxSteps": 3}, r"step 3 is restored and this job has 3 steps in all.*raise training\.maxSteps"),
    "batch": ({"globalBatchSize": 4}, r"training\.globalBatchSize is 4, that of the other job 8"),
    "seed": ({"seed": 8}, r"step 1 of the other job has learned from other samples.*training\.seed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_place_in_the_data_is_refused_with_the_field(saved: Saved, make_run: MakeRun, case: str) -> None:
    changes, words = REFUSED[case]
    with pytest.raises(BadConfig, match=words) as caught:
        adopted(*saved, make_run(**changes))
    assert caught.value.reason == "ResumeFromUnfit"


def test_a_smaller_last_batch_is_no_place_to_go_on_from(saved: Saved, make_run: MakeRun) -> None:
    commit, files = saved[0].model_copy(update={"samples_seen": 20}), {**saved[1], "cursor.json": b'{"samples_seen":20,"step":3}'}
    with pytest.raises(BadConfig, match=r"it would be 24 samples, the commit has 20.*no commit after a smaller last batch"):
        adopted(commit, files, make_run())


def test_another_tokenization_of_the_same_samples_is_refused(saved: Saved, make_run: MakeRun) -> None:
    run = make_run()
    run.samples = [replace(sample, targets=sample.targets + 1) for sample in run.samples]
    with pytest.raises(BadConfig, match=r"dataset\.format, dataset\.maxLength"):
        adopted(*saved, run)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"model_fingerprint": "0" * 64}, r"model\.source: the base model is not that of the other job"),
        ({"dataset_digest": "0" * 64}, r"dataset\.source: the data are not those of the other job"),
        ({"format": 1}, "has format 1, this trainer image reads"),
        ({"adapter_config": {"peft_type": "LORA", "r": 8}}, r"method\.rank is 4, that of the other job 8"),
        ({"adapter_config": {"peft_type": "LORA", "r": 4, "lora_alpha": 16}}, r"method\.alpha is 8\.0, that of the other job 16"),
        ({"adapter_config": None}, r"method\.type is LORA, that of the other job None"),
        ({"classes": None}, "compute classes"),
    ],
)
def test_another_model_data_set_or_adapter_is_refused_with_the_field(
    saved: Saved, make_run: MakeRun, stated: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadConfig, match=words):
        adopted(*restated(saved, **stated), make_run())


def test_other_layers_are_refused_by_the_tensors_themselves(saved: Saved, make_run: MakeRun) -> None:
    run = make_run()
    run.adapted.parameters.pop(next(iter(run.adapted.parameters)))
    with pytest.raises(BadConfig, match=r"does not fit this job's adapter: adapter\.safetensors: 1 tensors are missing or too many"):
        adopted(*saved, run)
