"""Checkpoints: a commit log in an object store that survives kills, pauses, lost answers and damaged objects.

`lineage` decides (pure), `protocol` and `transfer` are the steps, `drive` and `s3` do them, `log` and `saver` are for the trainer.
The protocol in prose: docs/checkpoint-protocol.md.
"""

from spottune_trainer.checkpoint.errors import (
    CheckpointError,
    EpochStale,
    Fenced,
    LogBlocked,
    LogNotUnderstood,
    LogOfAnotherJob,
    NoReadableCheckpoint,
    OriginSwept,
    OriginUnusable,
    StorageDenied,
    StorageUnavailable,
    Unacceptable,
)
from spottune_trainer.checkpoint.log import CheckpointLog, new_token
from spottune_trainer.checkpoint.origin import OriginLog
from spottune_trainer.checkpoint.protocol import ClaimOutcome, Restored
from spottune_trainer.checkpoint.s3 import TRAINERS, open_reader, open_store
from spottune_trainer.checkpoint.saver import Saver, Snapshot
from spottune_trainer.checkpoint.store import Store
from spottune_trainer.checkpoint.transfer import Files

__all__ = [
    "TRAINERS",
    "CheckpointError",
    "CheckpointLog",
    "ClaimOutcome",
    "EpochStale",
    "Fenced",
    "Files",
    "LogBlocked",
    "LogNotUnderstood",
    "LogOfAnotherJob",
    "NoReadableCheckpoint",
    "OriginLog",
    "OriginSwept",
    "OriginUnusable",
    "Restored",
    "Saver",
    "Snapshot",
    "StorageDenied",
    "StorageUnavailable",
    "Store",
    "Unacceptable",
    "new_token",
    "open_reader",
    "open_store",
]
