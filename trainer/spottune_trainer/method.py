"""Fine-tuning methods: how a base model becomes one with trainable parameters. So far one: `lora`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from spottune_contract.runspec import MethodSpec, ModelSpec
from spottune_trainer.errors import BadConfig


@dataclass(frozen=True)
class Adapted:
    """A model with an adapter on it.

    `parameters` are the trainable tensors by the names that PEFT gives them in `adapter_model.safetensors`, sorted by name;
    `adapter_config` is the content of PEFT's `adapter_config.json`. Both are the same in every attempt of a job.
    """

    model: torch.nn.Module
    parameters: dict[str, torch.nn.Parameter]
    adapter_config: dict[str, Any]


def adapt(base: torch.nn.Module, method: MethodSpec, model: ModelSpec, seed: int) -> Adapted:
    """Put the adapter of `method` on `base`, which must be on the CPU: the initial values then depend on `seed` alone."""
    return _METHODS[method.type](base, method, model, seed)


def _lora(base: torch.nn.Module, method: MethodSpec, model: ModelSpec, seed: int) -> Adapted:
    from peft import LoraConfig, get_peft_model

    targets: str | list[str] = "all-linear" if method.target_modules == ("all-linear",) else sorted(method.target_modules)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=targets,
        use_rslora=method.rslora,
        bias="none",
    )
    torch.manual_seed(seed)
    try:
        adapted = get_peft_model(base, config)
    except ValueError as error:
        raise BadConfig("TargetModules", f"method.targetModules does not fit the model: {str(error)[:600]}") from None
    # PEFT calls the adapter "default" in memory and leaves that word out in files.
    parameters = {name.replace(".default", ""): p for name, p in adapted.named_parameters() if p.requires_grad}
    return Adapted(adapted, dict(sorted(parameters.items())), _adapter_config(adapted.peft_config["default"], model))


def _adapter_config(config: Any, model: ModelSpec) -> dict[str, Any]:
    """As PEFT would save it, but without what changes from run to run: order of sets, path of a downloaded base model, version."""
    plain: dict[str, Any] = config.to_dict()
    plain["base_model_name_or_path"] = model.source.removeprefix("hf://")
    plain["revision"] = model.revision
    plain["inference_mode"] = True
    plain.pop("peft_version", None)
    ordered = {name: sorted(value) if isinstance(value, set) else value for name, value in plain.items()}
    copied: dict[str, Any] = json.loads(json.dumps(ordered, default=str))
    return copied


_METHODS: dict[str, Callable[[torch.nn.Module, MethodSpec, ModelSpec, int], Adapted]] = {"lora": _lora}
