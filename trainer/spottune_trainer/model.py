"""The base model and its tokenizer, from a folder that is complete on this machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from spottune_trainer.errors import BadConfig

_HEAD_BYTES = 64 * 1024


def check_model_dir(folder: Path, source: str) -> None:
    """Raise `BadConfig` unless the folder holds a config, safetensors weights and a tokenizer. Needs no torch."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise BadConfig(
            "ModelNotFound", f"model.source {source}: {error.strerror}: give a folder in the trainer image, s3:// or hf:// that exists"
        ) from None
    if not any(name.endswith(".safetensors") for name in names):
        raise BadConfig(
            "ModelHasNoSafetensors",
            f"model.source {source} has no *.safetensors file: save the weights as safetensors (pickles are never read)",
        )
    for name, what in (("config.json", "a Hugging Face model"), ("tokenizer.json", "a fast tokenizer")):
        if name not in names:
            raise BadConfig("ModelIncomplete", f"model.source {source} has no {name}: save {what} there with save_pretrained")
    try:
        if not isinstance(json.loads((folder / "config.json").read_bytes()), dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise BadConfig("ModelUnreadable", f"model.source {source}: config.json: {error}") from None


def fingerprint(folder: Path) -> str:
    """SHA-256 over all small files and over name, size and first 64 KiB (the header) of the weights.

    Finds a replaced model within milliseconds; it does not read gigabytes to find a changed number.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".jinja", ".model", ".txt", ".safetensors"):
            with path.open("rb") as stream:
                head = stream.read(_HEAD_BYTES) if path.suffix == ".safetensors" else stream.read()
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + head)
    return digest.hexdigest()


def load_tokenizer(folder: Path, source: str) -> Any:
    """The fast tokenizer of the model; remote code is never run."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BadConfig("TokenizerUnreadable", f"model.source {source}: the tokenizer cannot be loaded: {str(error)[:600]}") from None
    if not tokenizer.is_fast:
        raise BadConfig("SlowTokenizer", f"model.source {source} has no fast tokenizer: save one (tokenizer.json)")
    return tokenizer


def load_model(folder: Path, source: str, *, precision: str, gradient_checkpointing: bool) -> Any:
    """The causal language model on the CPU, frozen, in evaluation of nothing yet. Only safetensors are read."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BadConfig("ModelUnreadable", f"model.source {source}: the model cannot be loaded: {str(error)[:600]}") from None
    model.config.use_cache = False
    model.requires_grad_(False)
    if gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model
