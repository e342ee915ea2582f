"""The closed lists that appear in a job's status and events: phases, condition types, reasons.

A reason is a CamelCase constant, stable over releases; what it means here and now is told by the message beside it.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """One word for where a job is."""

    PENDING = "Pending"
    """Nothing was started yet."""
    STARTING = "Starting"
    """An attempt is on its way: its pod is being made, placed or started, or the trainer is loading."""
    RUNNING = "Running"
    DRAINING = "Draining"
    """The pod has to go and commits its last state."""
    ACCOUNTING = "Accounting"
    """The attempt has ended and its verdict is recorded; what comes next is decided from here."""
    WAITING = "Waiting"
    """For the end of a backoff, for capacity or for quota. Spends no budget."""
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def terminal(self) -> bool:
        """No attempt follows."""
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


class ConditionType(StrEnum):
    """The questions that a job's conditions answer. True is always the good news."""

    ACCEPTED = "Accepted"
    """Does the operator understand the spec, and does the cluster admit its pods?"""
    CAPACITY_AVAILABLE = "CapacityAvailable"
    """Was there a machine for the current attempt?"""
    STARTED = "Started"
    """Could the trainer's container be started?"""
    RESUME_EXACT = "ResumeExact"
    """Is the run so far, and the state that the current attempt goes on from, to the bit that of a run without interruptions?"""
    CHECKPOINT_FITS_NOTICE = "CheckpointFitsNotice"
    """Is a commit, as measured, done before a machine with a notice goes away?"""
    HANDLED = "Handled"
    """Can the operator handle the job? Left out until it could not once, by a defect of its own."""
    COMPLETE = "Complete"
    """Is the job done?"""


class Reason(StrEnum):
    """Why: of conditions, attempts and events."""

    # Lifecycle of a job.
    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    IN_PROGRESS = "InProgress"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    SUCCEEDED = "Succeeded"
    CANCELLED = "Cancelled"
    FAILURE_LIMIT = "FailureLimitReached"
    MAX_DURATION = "MaxDurationReached"
    RETRIED = "Retried"
    NAMESPACE_TERMINATING = "NamespaceTerminating"
    NO_PROGRESS = "NoProgress"
    # Placement and start.
    ATTEMPT_STARTED = "AttemptStarted"
    POD_CREATED = "PodCreated"
    SCHEDULED = "Scheduled"
    WAITING_FOR_NODE = "WaitingForNode"
    NO_CAPACITY = "NoCapacity"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_DENIED = "PodDenied"
    NAME_TAKEN = "PodNameTaken"
    REFERENCE_MISSING = "ReferenceMissing"
    POD_CREATE_FAILS = "PodCreateFails"
    SPEC_EDITED = "SpecEdited"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    CONTAINER_NOT_CREATED = "ContainerNotCreated"
    TRAINER_STARTED = "TrainerStarted"
    TRAINING = "Training"
    BACKOFF = "Backoff"
    # What took a pod away.
    INTERRUPTION_NOTICE = "InterruptionNotice"
    REBALANCE_RECOMMENDED = "RebalanceRecommended"
    POD_DELETED = "PodDeleted"
    POD_VANISHED = "PodVanished"
    POD_STUCK = "PodStuck"
    NODE_UNREACHABLE = "NodeUnreachable"
    INTERRUPTED = "Interrupted"
    # How an attempt ended: the names of contract.exitcodes.Verdict (a test compares them).
    FENCED = "Fenced"
    EPOCH_STALE = "EpochStale"
    BAD_CONFIGURATION = "BadConfiguration"
    BAD_DATA = "BadData"
    DIVERGED = "Diverged"
    NO_READABLE_CHECKPOINT = "NoReadableCheckpoint"
    STORAGE_DENIED = "StorageDenied"
    OUT_OF_MEMORY = "OutOfMemory"
    TRAINER_FAILED = "TrainerFailed"
    # Exactness and notice budget.
    FIRST_ATTEMPT = "FirstAttempt"
    STATE_VERIFIED = "StateVerified"
    MICRO_BATCH_CHANGED = "MicroBatchChanged"
    COMPUTE_CLASS_CHANGED = "ComputeClassChanged"
    STATE_DIFFERS = "StateDiffers"
    MEASURED = "Measured"
    TOO_SLOW = "CheckpointTooSlow"
    # Anything the operator itself got wrong.
    INTERNAL = "Internal"
    RECOVERED = "Recovered"


WISHES = frozenset({Reason.SUSPENDED, Reason.CANCELLED, Reason.MAX_DURATION})
"""What ends a trainer because its user wants it so."""
