"""What can go wrong with checkpoints, each with the exit code and the stable reason that the operator sees."""

from __future__ import annotations

from typing import ClassVar

from spottune_contract.exitcodes import ExitCode


class CheckpointError(Exception):
    """Base of all. `str(error)` names the thing and the remedy and never holds a secret."""

    exit_code: ClassVar[ExitCode] = ExitCode.TRANSIENT
    reason: str = "CheckpointFailed"
    """CamelCase constant, stable."""

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class Fenced(CheckpointError):
    """Another attempt owns the log: nothing that this process could still write counts."""

    exit_code = ExitCode.FENCED
    reason = "Fenced"

    def __init__(self, epoch: int, slot: int) -> None:
        super().__init__(
            f"epoch {epoch} owns the checkpoint log since slot {slot} at the latest; this attempt stops, the newer one goes on"
        )
        self.epoch = epoch


class EpochStale(CheckpointError):
    """The log already knows this epoch by another process, or a higher one."""

    exit_code = ExitCode.EPOCH_STALE
    reason = "EpochStale"

    def __init__(self, own: int, highest: int) -> None:
        super().__init__(f"the log already holds epoch {highest}, this process was started as epoch {own}: start one above {highest}")
        self.highest = highest


class NoReadableCheckpoint(CheckpointError):
    """The log has commits, or should have, and none can be read. Never answered by starting over."""

    exit_code = ExitCode.NO_READABLE_CHECKPOINT
    reason = "NoReadableCheckpoint"


class LogNotUnderstood(CheckpointError):
    """The log holds an intact record of a newer release: reading on would be guessing."""

    exit_code = ExitCode.BAD_CONFIG
    reason = "LogNotUnderstood"


class LogOfAnotherJob(CheckpointError):
    """The log belongs to another job, or its CLAIM was put there from one: nothing of it may be mixed with ours."""

    exit_code = ExitCode.BAD_CONFIG
    reason = "LogOfAnotherJob"


class OriginUnusable(CheckpointError):
    """The commit of another job that this one shall start from is not there: another attempt would end the same way."""

    exit_code = ExitCode.BAD_CONFIG
    reason = "ResumeFromUnusable"


class OriginSwept(CheckpointError):
    """The other job went on and swept the commit away while it was read: another attempt looks again."""

    reason = "ResumeFromSwept"


class StorageDenied(CheckpointError):
    """The store refuses us or cannot be trusted; another attempt would end the same way."""

    exit_code = ExitCode.STORAGE_DENIED
    reason = "StorageDenied"


class StorageUnavailable(CheckpointError):
    """The store did not answer usefully before the deadline. Whether the last write landed is for the next reader to see."""

    exit_code = ExitCode.TRANSIENT
    reason = "StorageUnavailable"

    def __init__(self, message: str, *, reason: str | None = None, last: str = "") -> None:
        super().__init__(message, reason=reason)
        self.last = last
        """What the store, or the network, last said."""


class LogBlocked(CheckpointError):
    """A record in our way cannot be read and may be a newer CLAIM: this process must not go on, a new attempt can."""

    exit_code = ExitCode.TRANSIENT
    reason = "LogBlocked"


class Superseded(CheckpointError):
    """An upload was given up for a newer snapshot before its COMMIT was sent; nothing is visible of it."""

    reason = "Superseded"


class Unacceptable(Exception):
    """Raised by the caller of `resume` for a state that is intact but does not fit, for example other tensor shapes."""
