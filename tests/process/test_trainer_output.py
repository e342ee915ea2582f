"""The exported adapter is an ordinary PEFT adapter, and the same however often it is exported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.trainerprocess import Bench

pytestmark = [pytest.mark.process, pytest.mark.storage]


def test_peft_loads_the_exported_adapter_and_it_predicts_better_than_the_base_model(bench: Bench, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    job = bench.job(checkpoint={"everySteps": 5})
    assert job.start(1, failpoint="T12:kill").wait() == -9
    assert bench.objects("out/") == {}
    assert job.start(2).ended(0).reason == "AlreadyFinal"
    exported = bench.objects("out/")
    folder = tmp_path / "adapter"
    folder.mkdir()
    for key, body in exported.items():
        (folder / key.rpartition("/")[2]).write_bytes(body)
    base = AutoModelForCausalLM.from_pretrained(bench.model)
    tokenizer = AutoTokenizer.from_pretrained(bench.model)
    turns = [{"role": "user", "content": "the node"}, {"role": "assistant", "content": "came back with all its work"}]
    ids = torch.tensor([tokenizer(tokenizer.apply_chat_template(turns, tokenize=False))["input_ids"]])
    with torch.no_grad():
        before = base(input_ids=ids, labels=ids).loss.item()
        adapted = PeftModel.from_pretrained(base, folder)
        after = adapted(input_ids=ids, labels=ids).loss.item()
    assert after < before
    assert job.start(3).ended(0).reason == "AlreadyFinal"
    assert bench.objects("out/") == exported
