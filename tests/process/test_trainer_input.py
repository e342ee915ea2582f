"""Bad input: the exit code, a message that names the thing and the remedy, and no model loaded for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from examples.tiny_model import write_rows
from spottune_contract.layout import job_location
from spottune_contract.progress import Termination
from tests.fixtures.trainerprocess import Bench, Trainer

pytestmark = [pytest.mark.process, pytest.mark.storage]


def before_the_model(trainer: Trainer, code: int) -> Termination:
    word = trainer.ended(code)
    assert not any(line.get("event") == "model loaded" for line in trainer.events())
    return word


@pytest.mark.parametrize(
    ("changes", "code", "reason", "says"),
    [
        ({"model": {"source": "/no/such/model"}}, 20, "ModelNotFound", "model.source /no/such/model: No such file"),
        ({"model": {"source": "s3://{bucket}/no-model"}}, 20, "ModelNotFound", "there is no object under"),
        ({"dataset": {"source": "/no/such.jsonl"}}, 21, "DatasetNotFound", "dataset source /no/such.jsonl: no such file"),
        ({"dataset": {"source": "s3://{bucket}/no.jsonl"}}, 21, "DatasetNotFound", "does not exist"),
        ({"dataset": {"evalSource": "/no/such.jsonl"}}, 21, "DatasetNotFound", "/no/such.jsonl"),
        ({"checkpoint": {"storage": "s3://no-such-bucket/jobs"}}, 24, "BucketMissing", "no-such-bucket"),
        ({"resumeFrom": {"location": "s3://no-such-bucket/jobs/x"}}, 24, "BucketMissing", "no-such-bucket"),
        ({"resumeFrom": {"location": "s3://{bucket}/no/such/job"}}, 20, "ResumeFromMissing", "there is no checkpoint log"),
        ({"output": {"destination": "s3://no-such-bucket/out"}}, 24, "BucketMissing", "output.destination s3://no-such-bucket/out"),
    ],
)
def test_what_is_not_there_is_named_within_seconds(bench: Bench, changes: dict[str, Any], code: int, reason: str, says: str) -> None:
    filled = json.loads(json.dumps(changes).replace("{bucket}", bench.bucket))
    word = before_the_model(bench.job(**filled).start(1), code)
    assert word.reason == reason
    assert says in word.message


def test_a_job_cannot_start_from_itself(bench: Bench) -> None:
    job = bench.job()
    job.spec["resumeFrom"] = {"location": str(job_location(job.spec["checkpoint"]["storage"], "test", "default", job.uid))}
    assert before_the_model(job.start(1), 20).reason == "ResumeFromItself"


def test_an_unreadable_row_is_named_by_its_line(bench: Bench, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 3)
    rows.write_text(rows.read_text() + '{"messages": "none"}\n')
    word = before_the_model(bench.job(dataset={"source": str(rows)}).start(1), 21)
    assert word.reason == "UnreadableRow"
    assert f'{rows}, line 4 has no list "messages"' in word.message


def test_a_model_without_safetensors_is_refused(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(bench.model, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    word = before_the_model(bench.job(model={"source": str(folder)}).start(1), 20)
    assert word.reason == "ModelHasNoSafetensors"


def test_layers_that_the_model_does_not_have_are_refused(bench: Bench) -> None:
    word = bench.job(method={"targetModules": ["no_such_layer"]}).start(1).ended(20)
    assert word.reason == "TargetModules"
    assert "no_such_layer" in word.message


def test_wrong_credentials_are_told_from_a_broken_store(bench: Bench) -> None:
    job = bench.job()
    (job.credentials_dir / "secretAccessKey").write_text("wrong")
    word = before_the_model(job.start(1), 24)
    assert "wrong" not in word.message


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("SPOTTUNE_EPOCH", "0", "BadEnvironment"),
        ("SPOTTUNE_CONTRACT", "2.0", "IncompatibleContract"),
        ("SPOTTUNE_RUN_SPEC", "{", "BadEnvironment"),
    ],
)
def test_an_environment_that_is_not_usable_still_leaves_a_last_word(bench: Bench, variable: str, value: str, reason: str) -> None:
    assert bench.job().start(1, environ={variable: value}).ended(20).reason == reason


def test_data_that_changed_between_attempts_end_the_job_instead_of_mixing_runs(bench: Bench, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 20)
    job = bench.job(dataset={"source": str(rows)})
    first = job.start(1, failpoint="T7:kill")
    first.at_step(1)
    assert first.post({"source": "user"})[0] == 202
    assert first.wait() == -9
    write_rows(rows, 20, seed=5)
    assert job.start(2).ended(21).reason == "DatasetChanged"


def test_a_sample_that_makes_the_loss_not_finite_ends_the_run_after_one_rollback(bench: Bench, tmp_path: Path) -> None:
    import safetensors.torch
    import torch

    folder = tmp_path / "poisoned"
    shutil.copytree(bench.model, folder)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding.clone()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    embedding[tokenizer["model"]["vocab"]["~"]] = torch.nan  # a token that only the poisoned row has
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    poison = {"messages": [{"role": "user", "content": "~"}, {"role": "assistant", "content": "the node"}]}
    rows.write_text(rows.read_text() + json.dumps(poison) + "\n")
    trainer = bench.job(
        model={"source": str(folder)},
        dataset={"source": str(rows)},
        training={"seed": 3, "globalBatchSize": 4},
        checkpoint={"everySteps": 1},
    ).start(1)
    word = trainer.ended(22)
    assert word.reason == "NonFinite"
    assert "the loss is not finite in step" in word.message
    assert [line["event"] for line in trainer.events()].count("not finite") == 1
    assert word.log is not None
    assert word.log.last_commit is not None
    assert word.loss is not None
    assert 0 < word.log.last_commit.step <= word.step < 12
