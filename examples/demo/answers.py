"""What the adapter is good for: evaluation loss and one answer, of the base model and with the adapter on it.

Run as a program of its own (`python -m examples.demo.answers MODEL ADAPTER EVAL`), so that the demo itself needs no torch.
Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

QUESTION = "What does the Python function os.path.join do?"
_ROWS, _TOKENS = 32, 192


def evaluation_loss(model: Any, tokenizer: Any, rows: list[list[dict[str, str]]]) -> float:
    """Mean loss per token of the last (assistant) turns, nats."""
    import torch

    total, count = 0.0, 0
    for messages in rows:
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(messages, return_dict=False)[:_TOKENS]
        labels = [-100] * len(prompt) + whole[len(prompt) :]
        if len(whole) <= len(prompt):
            continue
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([whole]), labels=torch.tensor([labels])).loss
        tokens = len(whole) - len(prompt)
        total, count = total + float(loss) * tokens, count + tokens
    return total / count


def answer(model: Any, tokenizer: Any) -> str:
    """The greedy answer to `QUESTION`."""
    import torch

    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=60, do_sample=False)
    return str(tokenizer.decode(out[0][ids["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def main(model_dir: str, adapter_dir: str, eval_file: str) -> dict[str, Any]:
    """Losses and answers of base and adapter, and the question."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(2)
    rows = [json.loads(line)["messages"] for line in Path(eval_file).read_text().splitlines()[:_ROWS]]
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    result: dict[str, Any] = {
        "question": QUESTION,
        "base": {"loss": evaluation_loss(base, tokenizer, rows), "answer": answer(base, tokenizer)},
    }
    tuned = PeftModel.from_pretrained(base, adapter_dir).eval()
    result["adapter"] = {"loss": evaluation_loss(tuned, tokenizer, rows), "answer": answer(tuned, tokenizer)}
    return result


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
