"""Turn one GGUF file into a Hugging Face model directory: `python convert_gguf.py FILE.gguf TARGET`."""

from __future__ import annotations

import copy
import sys
from pathlib import Path


def convert(source: Path, target: Path) -> None:
    """Write `target`: config, bfloat16 weights in safetensors, tokenizer with its chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    if not tokenizer.chat_template:
        raise ValueError(f"{source.name} carries no chat template")
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # The loaded model says of itself that it is quantized and refuses to be saved, though its weights have been restored:
    # a model of the plain configuration takes them over.
    config = copy.deepcopy(loaded.config)
    del config.quantization_config
    config._name_or_path = ""
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for file in target.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
