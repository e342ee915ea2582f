"""Ends of an attempt that the trainer itself decides; those of the checkpoint log are in `checkpoint`."""

from __future__ import annotations

from spottune_contract.exitcodes import ExitCode


class TrainerError(Exception):
    """Ends the process with `exit_code`. `reason` is a stable CamelCase constant, the message names the thing and the remedy."""

    exit_code = ExitCode.TRANSIENT

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadConfig(TrainerError):
    """The job cannot run as it is written; another attempt would end the same way."""

    exit_code = ExitCode.BAD_CONFIG


class BadData(TrainerError):
    """A data source is missing, unreadable or has rows that are not of the stated format."""

    exit_code = ExitCode.BAD_DATA


class Diverged(TrainerError):
    """Loss or gradient norm not finite again after the one rollback."""

    exit_code = ExitCode.DIVERGED


class StorageUnusable(TrainerError):
    """A bucket that the job reads from or writes to refuses us, outside the checkpoint log."""

    exit_code = ExitCode.STORAGE_DENIED


class Transient(TrainerError):
    """Another attempt may well succeed."""
