"""The finished adapter as a folder that `PeftModel.from_pretrained` loads.

It is made of the FINAL commit's files alone, byte by byte the same whoever makes it and however often: it needs neither torch
nor the base model.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from spottune_contract.layout import S3Location
from spottune_contract.records import Commit
from spottune_trainer.checkpoint import CheckpointError, Files, StorageDenied
from spottune_trainer.errors import StorageUnusable, Transient
from spottune_trainer.objects import FOR_EXPORT, Objects, Patience
from spottune_trainer.state_files import ADAPTER, TRAINER, document

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def adapter_files(files: Files) -> dict[str, bytes]:
    """Names and contents of the exported folder, in the order to be written: the config, which loaders look for, comes last."""
    config = document(files, TRAINER)["adapter_config"]
    return {
        WEIGHTS: bytes(files[ADAPTER]),
        CONFIG: (json.dumps(config, sort_keys=True, indent=2, ensure_ascii=True) + "\n").encode(),
    }


def export_final(
    files: Files,
    final: Commit,
    destination: str,
    objects: Objects,
    *,
    location: S3Location,
    again: bool,
    patience: Patience = FOR_EXPORT,
    tell: Callable[[str], None] = lambda trouble: None,
) -> str:
    """Write the adapter under `destination` (`s3://BUCKET/PREFIX`), over an earlier export of the same. Returns the place.

    `again`: this attempt found FINAL already in the log. `location`: root of the job, for saying where the result is safe.
    `tell` hears what is being waited for, once per file.

    Raises:
        Transient: it could not be written now; the next attempt finds FINAL and only exports.
        StorageUnusable: refused again after an attempt had waited: a third one would only cost another machine.
    """
    place = destination.rstrip("/")
    try:
        for name, data in adapter_files(files).items():
            objects.put(f"{place}/{name}", data, patience=patience, tell=tell)
    except CheckpointError as error:
        adapter = next((f"{location}/{file.key}" for file in final.files if file.name == ADAPTER), str(location))
        message = f"the training is done and its adapter durable ({adapter}), but it could not be exported to output.destination: {error}"
        if again and isinstance(error, StorageDenied):
            raise StorageUnusable(error.reason, message) from None
        raise Transient("NotExported", f"{message}; the next attempt exports it") from None
    return place
