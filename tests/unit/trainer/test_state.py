"""State round trips: equal bytes, nothing unpickled, nothing accepted that does not fit."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from spottune_contract.records import Commit
from spottune_trainer import rng
from spottune_trainer.checkpoint import Unacceptable
from spottune_trainer.history import History
from spottune_trainer.loop import Run, evaluate, optimizer_step, train
from spottune_trainer.state_files import ADAPTER, CURSOR, HISTORY, NAMES, OPTIMIZER, RNG, TRAINER, same_place

MakeRun = Callable[..., Run]


@pytest.fixture(scope="module")
def files(make_run: MakeRun) -> dict[str, bytes]:
    from tests.unit.trainer.conftest import Quiet

    run = make_run(maxSteps=3)
    train(run, Quiet())
    return run.save()


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> Run:
    return make_run(maxSteps=3)


def test_a_state_comes_back_with_equal_bytes(run: Run, files: dict[str, bytes]) -> None:
    run.load(files)
    assert run.save() == files
    assert sorted(files) == sorted(NAMES)


def test_a_state_may_come_as_memoryviews(run: Run, files: dict[str, bytes]) -> None:
    run.load({name: memoryview(data) for name, data in files.items()})
    assert run.save() == files


def test_nothing_is_unpickled_on_the_way_back(run: Run, files: dict[str, bytes]) -> None:
    seen: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, _args: seen.append(event) if watching and event.startswith("pickle.") else None)
    run.load(files)
    watching.clear()
    assert seen == []


def test_the_state_at_step_0_has_no_moments_and_comes_back_too(make_run: MakeRun) -> None:
    first, second = make_run(maxSteps=3), make_run(maxSteps=3, seed=7)
    second.load(first.save())
    assert second.save() == first.save()


def edited(file: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def apply(files: dict[str, bytes]) -> dict[str, bytes]:
        tensors = safetensors.torch.load(bytes(files[file]))
        change(tensors)
        return files | {file: safetensors.torch.save(tensors)}

    return apply


def first(tensors: dict[str, torch.Tensor]) -> str:
    return min(tensors)


def replaced(file: str, data: bytes) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: files | {file: data}


def restated(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def apply(files: dict[str, bytes]) -> dict[str, bytes]:
        document = json.loads(files[TRAINER])
        change(document)
        return files | {TRAINER: json.dumps(document).encode()}

    return apply


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda files: {n: d for n, d in files.items() if n != RNG}, "lacks rng.safetensors"),
        (replaced(ADAPTER, b""), "adapter.safetensors is not safetensors"),
        (replaced(ADAPTER, (1 << 40).to_bytes(8, "little") + b"{}"), "a header of 1099511627776 bytes"),
        (replaced(CURSOR, b"{"), "cursor.json is not JSON"),
        (replaced(CURSOR, b'{"step": 1}'), "cursor.json does not hold"),
        (replaced(CURSOR, b'{"samples_seen": 8, "step": true}'), "cursor.json does not hold"),
        (replaced(TRAINER, b"[]"), "trainer.json is not a JSON object"),
        (replaced(CURSOR, b'{"samples_seen": 16, "step": 2}'), "has 3 entries, the state has 2 steps"),
        (replaced(CURSOR, b'{"samples_seen": 0, "step": 0}'), "optimizer.safetensors: "),
        (edited(ADAPTER, lambda t: t.pop(first(t))), "1 tensors are missing or too many"),
        (edited(ADAPTER, lambda t: t.update(more=torch.zeros(1))), "the first is more"),
        (edited(ADAPTER, lambda t: t.update({first(t): t[first(t)].double()})), "is torch.float64"),
        (edited(ADAPTER, lambda t: t.update({first(t): t[first(t)][:1].clone()})), "the model has"),
        (edited(OPTIMIZER, lambda t: t.pop(first(t))), "optimizer.safetensors: 1 tensors"),
        (edited(RNG, lambda t: t.update({"torch.cpu": t["torch.cpu"][:8].clone()})), "rng.safetensors: torch.cpu"),
        (restated(lambda d: d.pop("classes")), "the compute classes that made the state"),
        (restated(lambda d: d.update(spec_hash="0")), "of another run: spec_hash differ"),
        (edited(HISTORY, lambda t: t.pop("samples")), "history has the columns"),
        (edited(HISTORY, lambda t: t.update({"loss": t["loss"].float()})), "history column loss is torch.float32"),
        (edited(HISTORY, lambda t: t.update({"eval.loss": t["eval.loss"][:1].clone()})), "evaluations without a loss"),
    ],
)
def test_what_does_not_fit_is_unacceptable_and_says_why(run: Run, files: dict[str, bytes], damage: Any, says: str) -> None:
    with pytest.raises(Unacceptable, match=says.replace("(", r"\(")):
        run.check(damage(files))


@pytest.mark.parametrize("change", [{"learningRate": 0.02}, {"seed": 8}, {"maxSteps": 4}])
def test_the_state_of_another_run_is_unacceptable(make_run: MakeRun, files: dict[str, bytes], change: dict[str, Any]) -> None:
    with pytest.raises(Unacceptable, match="spec_hash"):
        make_run(**({"maxSteps": 3} | change)).check(files)


def test_all_generators_go_on_where_they_were() -> None:
    rng.seed_all(3)
    random.gauss(0, 1)
    np.random.standard_normal()
    state = rng.capture()
    drawn = [random.gauss(0, 1), random.random(), np.random.standard_normal(), np.random.rand(), torch.rand(2).tolist()]
    rng.restore(safetensors.torch.load(safetensors.torch.save(state)))
    assert [random.gauss(0, 1), random.random(), np.random.standard_normal(), np.random.rand(), torch.rand(2).tolist()] == drawn


def test_generators_of_gpus_that_are_not_here_are_left_out(run: Run, files: dict[str, bytes]) -> None:
    assert not torch.cuda.is_available()
    run.check(edited(RNG, lambda t: t.update({"torch.cuda.0": torch.zeros(16, dtype=torch.uint8)}))(files))


def test_a_restored_state_is_encoded_again_from_memory_to_the_same_digests(run: Run, files: dict[str, bytes]) -> None:
    run.load(files)
    assert run.live_digests() == {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != TRAINER}


@pytest.mark.parametrize("what", ["adapter", "optimizer", "rng", "history", "cursor"])
def test_what_is_not_in_memory_as_it_was_saved_is_found(run: Run, files: dict[str, bytes], what: str) -> None:
    run.load(files)
    saved, parameter = run.live_digests(), next(iter(run.adapted.parameters.values()))
    if what == "adapter":
        parameter.data[0, 0] = -parameter.data[0, 0] + 1e-3
    elif what == "optimizer":
        run.optimizer.state[parameter]["exp_avg_sq"][0, 0] += 1e-9
    elif what == "rng":
        torch.rand(())
    elif what == "history":
        run.history.loss[0] = np.nextafter(run.history.loss[0], 0.0)
    else:
        run.step += 1
    differing = {name.partition(".")[0] for name, digest in run.live_digests().items() if digest != saved[name]}
    assert differing == {what}


def test_a_state_with_generators_of_other_machines_is_proven_by_those_that_are_here(run: Run, files: dict[str, bytes]) -> None:
    moved = edited(RNG, lambda t: t.update({"torch.cuda.0": torch.zeros(16, dtype=torch.uint8)}))(files)
    run.load(moved)
    assert run.live_digests()[RNG] == hashlib.sha256(moved[RNG]).hexdigest()


def test_only_the_history_grows_with_the_steps(make_run: MakeRun, quiet: Any) -> None:
    short, long = make_run(maxSteps=9), make_run(maxSteps=9)
    evaluate(short, quiet)
    optimizer_step(short, quiet)
    train(long, quiet)
    before, after = short.save(), long.save()
    grown = {name for name in NAMES if len(after[name]) != len(before[name])}
    assert grown == {HISTORY, CURSOR}
    assert json.loads(after[CURSOR]) == {"step": 9, "samples_seen": 72}
    assert len(after[CURSOR]) == len(before[CURSOR]) + 1  # one digit


def test_the_classes_that_made_a_state_are_kept_and_go_on(make_run: MakeRun, quiet: Any) -> None:
    run, classes = make_run(maxSteps=3), []
    for micro in (4, 2, 2):
        optimizer_step(run, quiet)
        files = run.save()
        run = make_run(maxSteps=3, microBatchSize=micro)
        run.load(files)
        classes.append(run.makers.changed())
    assert classes == [["microBatch 2 → 4"]] * 3
    assert run.makers.classes == ((0, "accelerator=cpu; microBatch=2"), (1, "accelerator=cpu; microBatch=4"))


def test_an_empty_history_has_its_columns() -> None:
    assert History.from_tensors(History().tensors(), 0) == History()


def test_the_description_of_the_adapter_is_kept_but_not_compared(run: Run, files: dict[str, bytes]) -> None:
    document = json.loads(files[TRAINER])
    document["adapter_config"]["new_in_the_next_release"] = None
    run.check(files | {TRAINER: json.dumps(document).encode()})


@pytest.mark.parametrize(("step", "samples", "fits"), [(3, 24, True), (4, 24, False), (3, 25, False)])
def test_a_record_that_says_another_step_than_its_files_is_not_accepted(
    files: dict[str, bytes], step: int, samples: int, fits: bool
) -> None:
    record = Commit(slot=2, epoch=1, writer="a" * 8, save="b" * 8, step=step, samples_seen=samples, reason="interval", files=())
    if fits:
        same_place(record, files)
        return
    with pytest.raises(Unacceptable, match="cursor"):
        same_place(record, files)
