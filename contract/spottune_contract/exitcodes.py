"""Exit codes of the trainer and what the end of an attempt means.

This is the only place that knows 137, 143, `Evicted` and `DisruptionTarget`. `verdict` is pure and total.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """How a trainer process ends. Anything else is read as `TRANSIENT`."""

    DONE = 0
    YIELDED = 10
    """Asked to stop, and the newest finished optimizer step is committed."""
    FENCED = 11
    """A newer epoch owns the log: nothing this process could still write counts."""
    EPOCH_STALE = 12
    """The log already holds this epoch (another writer) or a higher one."""
    BAD_CONFIG = 20
    BAD_DATA = 21
    DIVERGED = 22
    """Loss or gradient norm not finite again after one rollback."""
    NO_READABLE_CHECKPOINT = 23
    """The log has commits, or should have, and none can be read. Never answered by starting over."""
    STORAGE_DENIED = 24
    """The store refuses us or cannot be trusted (no rights, no bucket, no conditional writes)."""
    TRANSIENT = 30


class Verdict(StrEnum):
    """What the end of an attempt means for the job."""

    SUCCEEDED = "Succeeded"
    INTERRUPTED = "Interrupted"
    """The machine or the cluster took the pod away, with or without a last commit. Never spends the failure budget."""
    FENCED = "Fenced"
    EPOCH_STALE = "EpochStale"
    BAD_CONFIG = "BadConfiguration"
    BAD_DATA = "BadData"
    DIVERGED = "Diverged"
    NO_READABLE_CHECKPOINT = "NoReadableCheckpoint"
    STORAGE_DENIED = "StorageDenied"
    OUT_OF_MEMORY = "OutOfMemory"
    FAILED = "TrainerFailed"

    @property
    def permanent(self) -> bool:
        """Another attempt would end the same way: the job fails at once."""
        return self in _PERMANENT

    @property
    def spends_failure_budget(self) -> bool:
        """The attempt counts against `limits.failures`."""
        return self in (Verdict.OUT_OF_MEMORY, Verdict.FAILED)

    @property
    def counts_as_no_progress(self) -> bool:
        """The attempt counts against `limits.noProgress` if it made no new commit."""
        return self in (Verdict.OUT_OF_MEMORY, Verdict.FAILED)


_PERMANENT = frozenset({Verdict.BAD_CONFIG, Verdict.BAD_DATA, Verdict.DIVERGED, Verdict.NO_READABLE_CHECKPOINT, Verdict.STORAGE_DENIED})

_BY_CODE = {
    ExitCode.DONE: Verdict.SUCCEEDED,
    ExitCode.YIELDED: Verdict.INTERRUPTED,
    ExitCode.FENCED: Verdict.FENCED,
    ExitCode.EPOCH_STALE: Verdict.EPOCH_STALE,
    ExitCode.BAD_CONFIG: Verdict.BAD_CONFIG,
    ExitCode.BAD_DATA: Verdict.BAD_DATA,
    ExitCode.DIVERGED: Verdict.DIVERGED,
    ExitCode.NO_READABLE_CHECKPOINT: Verdict.NO_READABLE_CHECKPOINT,
    ExitCode.STORAGE_DENIED: Verdict.STORAGE_DENIED,
}

_SIGKILL, _SIGTERM = 128 + 9, 128 + 15
_TAKEN_AWAY = frozenset(
    {"Evicted", "NodeShutdown", "NodeAffinity", "Shutdown", "Terminated", "NodeLost", "Preempting", "UnexpectedAdmissionError"}
)
"""`pod.status.reason` values by which the kubelet or the control plane says that the pod had to go, not that it failed."""


@dataclass(frozen=True)
class PodEnd:
    """Everything that may be known of how a trainer pod ended. All defaults mean: not known."""

    exit_code: int | None = None
    """`state.terminated.exitCode` of the trainer container."""
    container_reason: str = ""
    """`state.terminated.reason`, for example `OOMKilled`, `Error`, `Completed`, `ContainerStatusUnknown`."""
    pod_reason: str = ""
    """`status.reason` of the pod, for example `Evicted`."""
    disruption: str = ""
    """Reason of a true `DisruptionTarget` condition, for example `EvictionByEvictionAPI`."""
    deleted: bool = False
    """The pod bears a deletion timestamp: somebody asked for its end."""
    vanished: bool = False
    """The pod object is gone, or its node is unreachable beyond the grace time."""


def verdict(end: PodEnd) -> Verdict:
    """Say what the end of an attempt means. The trainer's own word counts first, then who took the pod away.

    A code of our own is believed whatever happened around it. Without one, a pod that was deleted, evicted, disrupted or that
    vanished is an interruption; an out-of-memory kill is a failure; anything else is a transient failure.
    """
    # A code from a container that the kubelet lost sight of is a default, not a statement of ours.
    if end.exit_code in _BY_CODE and end.container_reason != "ContainerStatusUnknown":
        return _BY_CODE[ExitCode(end.exit_code)]
    if end.container_reason == "OOMKilled":
        return Verdict.OUT_OF_MEMORY
    taken = end.vanished or end.deleted or bool(end.disruption) or end.pod_reason in _TAKEN_AWAY
    if taken or end.container_reason == "ContainerStatusUnknown":
        return Verdict.INTERRUPTED
    if end.exit_code == _SIGTERM:
        return Verdict.INTERRUPTED
    return Verdict.FAILED
