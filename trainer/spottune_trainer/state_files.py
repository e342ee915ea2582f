"""Names of the files of a saved state, and reading their JSON. Apart from `state`, so that an export needs no torch."""

from __future__ import annotations

import json
from typing import Any

from spottune_contract.records import Commit
from spottune_trainer.checkpoint import Files, Unacceptable

ADAPTER, OPTIMIZER, HISTORY, RNG = "adapter.safetensors", "optimizer.safetensors", "history.safetensors", "rng.safetensors"
CURSOR, TRAINER = "cursor.json", "trainer.json"
NAMES = (ADAPTER, OPTIMIZER, HISTORY, RNG, CURSOR, TRAINER)


def document(files: Files, name: str) -> dict[str, Any]:
    """A JSON file of the state. Raises `Unacceptable` if it is missing or no JSON object."""
    try:
        value = json.loads(bytes(files[name]))
    except KeyError:
        raise Unacceptable(f"the state lacks {name}") from None
    except (ValueError, RecursionError):
        raise Unacceptable(f"{name} is not JSON") from None
    if not isinstance(value, dict):
        raise Unacceptable(f"{name} is not a JSON object")
    return value


def same_place(commit: Commit, files: Files) -> None:
    """Raises `Unacceptable` if a COMMIT and the files that it names do not stand at the same place of the run."""
    cursor = document(files, CURSOR)
    stated = {"step": commit.step, "samples_seen": commit.samples_seen}
    if cursor != stated:
        raise Unacceptable(f"the record says {stated}, {CURSOR} says {cursor}")
