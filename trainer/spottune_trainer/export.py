"""The finished adapter as a folder that `PeftModel.from_pretrained` loads.

It is made of the FINAL commit's files alone, byte by byte the same whoever makes it and however often: it needs neither torch
nor the base model.
"""

from __future__ import annotations

import json

from spottune_trainer.checkpoint import Files
from spottune_trainer.objects import Objects
from spottune_trainer.state_files import ADAPTER, TRAINER, document

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def adapter_files(files: Files) -> dict[str, bytes]:
    """Names and contents of the exported folder, in the order to be written: the config, which loaders look for, comes last."""
    config = document(files, TRAINER)["adapter_config"]
    return {
        WEIGHTS: bytes(files[ADAPTER]),
        CONFIG: (json.dumps(config, sort_keys=True, indent=2, ensure_ascii=True) + "\n").encode(),
    }


def export(files: Files, destination: str, objects: Objects) -> str:
    """Write the adapter under `destination` (`s3://BUCKET/PREFIX`), over an earlier export of the same. Returns the place."""
    place = destination.rstrip("/")
    for name, data in adapter_files(files).items():
        objects.put(f"{place}/{name}", data)
    return place
