"""What a trainer says of itself: the body of `GET /progress` and the container's termination message."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

TERMINATION_MESSAGE_LIMIT = 4096
"""The kubelet cuts a termination message at this many bytes."""


class TrainerPhase(StrEnum):
    STARTING = "starting"
    CLAIMING = "claiming"
    LOADING = "loading"
    RESTORING = "restoring"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving"
    EXPORTING = "exporting"
    DONE = "done"


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    """Unknown fields are ignored: a newer trainer may say more than this reader knows."""


class CommitView(_Message):
    """The newest effective COMMIT that the trainer knows of."""

    slot: int
    epoch: int
    step: int
    reason: str
    at: str = ""
    loss: float | None = None
    digests: dict[str, str] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)


class LogView(_Message):
    """What the trainer has read in the log. The operator has no storage rights: this is how it learns what happened."""

    head_slot: int
    """Highest slot read or written; -1 for an empty log. The next attempt's `RunEnv.min_slot` is one more."""
    max_epoch: int
    """Highest effective epoch in the log; 0 for none."""
    last_commit: CommitView | None = None
    final: bool = False


class ExactnessView(_Message):
    """Proof for the condition `ResumeExact` of one resume."""

    exact: bool
    """To the bit, the whole lineage: the state that was restored, and every step that led to it."""
    reason: str
    """`FirstAttempt`, `StateVerified`, `MicroBatchChanged`, `ComputeClassChanged` or `StateDiffers`."""
    message: str
    """For people: what was compared, and what came out."""
    compute_class: str
    """Of this attempt."""
    parent_slot: int | None = None
    """Slot of the COMMIT that was restored; None if the run starts at step 0."""
    parent_step: int | None = None
    digests: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each file of the restored state: as committed, as downloaded and, but for `trainer.json`, as encoded again from memory."""
    changed: list[str] = Field(default_factory=list)
    """What of the compute class is not the same in all steps of the lineage, for example `microBatch 2 → 4`."""


class Progress(_Message):
    """Body of `GET /progress`. Times are wall clock seconds since the epoch; 0 means not yet."""

    contract: str
    job_uid: str
    epoch: int
    writer: str
    phase: TrainerPhase
    step: int = 0
    """Finished optimizer steps."""
    total_steps: int = 0
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    samples_seen: int = 0
    tokens_per_second: float = 0.0
    step_seconds: float = 0.0
    """Median of the last optimizer steps."""
    resumed_from_step: int | None = None
    started_at: float = 0.0
    claimed_at: float = 0.0
    first_step_at: float = 0.0
    """When the first optimizer step of this process was finished: the first useful one after a resume."""
    loaded_at: float = 0.0
    """When model and data were loaded."""
    notice_at: float = 0.0
    """When the trainer was told to commit or to end, by `notice_source`."""
    notice_source: str = ""
    """As in `CheckpointRequest.source`, or `sigterm`."""
    checkpoint_seconds: float = 0.0
    """Expected seconds from a notice to a durable commit: micro-step, snapshot and upload as measured."""
    warnings: list[str] = Field(default_factory=list)
    log: LogView | None = None
    exactness: ExactnessView | None = None


class Termination(_Message):
    """The termination message: the last word of a trainer, kept by the kubelet in the pod's status."""

    contract: str
    epoch: int
    writer: str = ""
    exit_code: int
    reason: str
    """CamelCase constant, stable."""
    message: str
    """For people: what is wrong, with which thing, and the remedy."""
    step: int = 0
    total_steps: int = 0
    samples_seen: int = 0
    loss: float | None = None
    eval_loss: float | None = None
    output: str = ""
    """Where the adapter was exported to, once it was."""
    first_step_at: float = 0.0
    loaded_at: float = 0.0
    notice_at: float = 0.0
    notice_source: str = ""
    resumed_from_step: int | None = None
    log: LogView | None = None
    exactness: ExactnessView | None = None

    def encode(self) -> str:
        """JSON of at most `TERMINATION_MESSAGE_LIMIT` bytes; what the log says too goes first, then the message is shortened."""
        text = self.model_dump_json()
        if len(text.encode()) > TERMINATION_MESSAGE_LIMIT and self.exactness is not None and self.exactness.digests:
            return self.model_copy(update={"exactness": self.exactness.model_copy(update={"digests": {}})}).encode()
        excess = len(text.encode()) - TERMINATION_MESSAGE_LIMIT
        if excess <= 0:
            return text
        kept = self.message.encode("ascii", "replace").decode()[: max(0, len(self.message) - excess - 64)]
        shorter = self.model_copy(update={"message": kept + " …" if kept else "", "exactness": None})
        return shorter.model_dump_json()

    @classmethod
    def parse(cls, text: str | None) -> Termination | None:
        """The message in `text`, or None if it is none of ours (a crash leaves other text, or nothing)."""
        if not text:
            return None
        try:
            return cls.model_validate_json(text)
        except ValueError:
            return None


class CheckpointRequest(BaseModel):
    """Body of `POST /checkpoint`. Idempotent: the worst that a caller can do is an early commit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(default="request", pattern=r"^[a-z][a-z0-9-]{0,31}$")
    """Who asks: `imds`, `sqs`, `rebalance`, `user`, …"""
    deadline: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Wall clock seconds since the epoch at which the machine goes away; None: nothing ends, only commit."""
