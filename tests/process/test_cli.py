"""`spottune` reads what the real trainer writes, and PEFT loads what it restores."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from spottune_cli.main import app
from spottune_contract.layout import job_location
from tests.fixtures.trainerprocess import Bench, Job

pytestmark = [pytest.mark.process, pytest.mark.storage]


def spottune(bench: Bench, job: Job, command: str, *arguments: str) -> Result:
    place = str(job_location(job.spec["checkpoint"]["storage"], "test", "default", job.uid))
    options = ["--endpoint", bench.store.endpoint, "--credentials-dir", str(job.credentials_dir)]
    result = CliRunner().invoke(app, [command, place, *arguments, *options], env={"COLUMNS": "160", "TZ": "UTC"})
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result


def test_the_log_of_a_real_run_is_read_verified_and_restored_into_an_adapter_that_peft_loads(bench: Bench, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    job = bench.job(checkpoint={"everySteps": 4})
    first = job.start(1)
    first.at_step(5)
    first.signal(signal.SIGTERM)
    first.ended(10)
    job.start(2).ended(0)

    document = json.loads(spottune(bench, job, "log", "-o", "json").stdout)
    assert [attempt["node"] for attempt in document["attempts"]] == ["node-1", "node-2"]
    commits = {record["step"]: record for record in document["log"] if record["kind"] == "COMMIT"}
    assert commits[12]["standing"] == "head"
    assert commits[12]["digests"] == bench.twin
    assert any(record["reason"] == "sigterm" for record in commits.values())
    table = spottune(bench, job, "log").stdout
    assert "Finished with step 12" in table
    assert "attempt 2  on node-2" in table
    assert spottune(bench, job, "verify", "--keep-last", "3").stdout.endswith("OK\n")

    kept = sorted(step for step, record in commits.items() if record["data"] == "kept")
    assert len(kept) >= 3
    for step in (kept[0], kept[-1]):
        spottune(bench, job, "restore", "--at", str(step), "-o", str(tmp_path / f"step{step}"))
    exported = {key.rpartition("/")[2]: body for key, body in bench.objects("out/").items()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "step12").iterdir()} == exported

    ids = torch.arange(8).unsqueeze(0)
    outputs = []
    for step in (kept[0], 12):
        base = AutoModelForCausalLM.from_pretrained(bench.model)
        with torch.no_grad():
            outputs.append(PeftModel.from_pretrained(base, tmp_path / f"step{step}")(input_ids=ids).logits)
    assert not torch.equal(*outputs)
