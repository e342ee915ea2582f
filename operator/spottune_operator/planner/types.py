"""What the planner may look at and what it answers: plain values.

`Observed` is everything a decision may depend on, the time included. `Plan` is the whole answer: the status as it shall be, at
most one side effect, the events to tell, and when to look again. The executor writes `plan.status` first (compare-and-swap on the
job's resourceVersion), only then carries out `plan.action`, then looks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from spottune_contract.exitcodes import PodEnd
from spottune_contract.notice import MARGIN_SECONDS
from spottune_contract.progress import CheckpointRequest, Progress, Termination
from spottune_operator.api.reasons import Reason
from spottune_operator.api.v1alpha1 import FineTuneJobSpec, FineTuneJobStatus, PoolStatus


@dataclass(frozen=True)
class Settings:
    """What decisions know of the installation. Times are in seconds; set once for the whole operator."""

    cluster: str = ""
    """Name of this cluster: part of every job's storage prefix, as in `TrainerDefaults`."""
    unreachable_grace: float = 60.0
    """A node may be not ready, or a deleted pod be there after its deadline, for so long before the next attempt waits for it no more."""
    unschedulable_after: float = 90.0
    """A pod may wait for a machine for so long before another pool is tried."""
    image_timeout: float = 600.0
    """An image may be unavailable for so long before the job fails."""
    pod_grace: int = 100
    """terminationGracePeriodSeconds of a trainer pod."""
    notice_margin: float = MARGIN_SECONDS
    """Kept free between the end of a pod's grace time and the announced end of its machine."""
    notice_window: float = 120.0
    """Time between a spot notice and the end of the machine: what a commit has to fit into."""
    stale_notice: float = 300.0
    """A notice whose deadline passed longer ago than this is ignored."""
    progress_interval: float = 10.0
    """Step, loss and ETA are written to the status at most this often."""


class PodState(StrEnum):
    """Where a pod is; exactly one of them."""

    SCHEDULING = "Scheduling"
    """No node yet."""
    CREATING = "Creating"
    """Has a node; the container was not started yet."""
    RUNNING = "Running"
    TERMINATING = "Terminating"
    """Deleted, and not ended yet."""
    LOST = "Lost"
    """Not ended as far as one can see, but its machine is off, or its node has not been ready for longer than the grace time."""
    STUCK = "Stuck"
    """Deleted, and still there when its deletion deadline has passed for longer than the grace time: its node answers and cannot end it."""
    ENDED = "Ended"
    """The trainer container has ended, or the pod failed before it started."""

    @property
    def live(self) -> bool:
        """It may still train: the next attempt has to wait for it."""
        return self not in (PodState.LOST, PodState.STUCK, PodState.ENDED)


@dataclass(frozen=True)
class ObservedPod:
    """One pod of this job (its controller is our UID, and it bears our labels)."""

    name: str
    uid: str
    epoch: int
    rank: int
    state: PodState
    node: str = ""
    pool: str = ""
    """Pool that the attempt was sent to (from the annotation)."""
    zone: str = ""
    """Zone of the node, from its labels."""
    ip: str = ""
    created_at: float = 0.0
    placed_at: float = 0.0
    """When it was given a node; 0 if it was not."""
    running_at: float = 0.0
    """When the trainer container was started; 0 if it was not."""
    ended_at: float = 0.0
    """When the trainer container ended; 0 if nobody told."""
    deleting: bool = False
    """Bears a deletion timestamp."""
    ends_by: float = 0.0
    """When its time is up; 0 if nobody asked for its end."""
    node_silent: bool = False
    """Its node is not ready: what the pod does now, nobody can hear."""
    machine_off: str = ""
    """Why its machine is taken to be off although Kubernetes does not say so; empty if it is not."""
    end: PodEnd = field(default_factory=PodEnd)
    """Only meaningful when `state` is ENDED, LOST or STUCK."""
    termination: Termination | None = None
    unschedulable: str = ""
    """The scheduler's own message; empty unless it said that no node fits."""
    waiting_reason: str = ""
    """Why the container does not start, for example `ImagePullBackOff`."""
    waiting_message: str = ""
    image: str = ""
    """What its container runs, as `images.resolved` says; empty until the node has it."""
    last_words: str = ""
    """End of the container's log, where it left no message of ours (`FallbackToLogsOnError`)."""
    progress: Progress | None = None
    """Its last report, if it is one of this job and this epoch."""


@dataclass(frozen=True)
class Notice:
    """Somebody announced the end of a node of ours (or recommends to leave it)."""

    node: str
    """Kubernetes node name."""
    kind: Literal["Interruption", "Rebalance", "Off"]
    """`Off`: it is said to have ended already, at `deadline`."""
    source: str
    """`sqs`, `imds`, …; must fit `CheckpointRequest.source`."""
    deadline: float = 0.0
    """Wall clock seconds at which the machine goes away; 0 if not told."""
    instance_id: str = ""
    announced_at: float = 0.0
    """Wall clock seconds at which the source says that it was made; 0 if not told."""
    heard_at: float = 0.0
    """Wall clock seconds at which we heard of it."""


class ObstacleKind(StrEnum):
    """Why the last pod create was refused."""

    QUOTA = "Quota"
    """403 with a quota: may be different in a minute."""
    DENIED = "Denied"
    """Admission (Pod Security, policy, webhook) or validation refused the pod: will be refused again."""
    TERMINATING = "Terminating"
    """The namespace is being deleted, which nobody can take back."""
    NAME_TAKEN = "NameTaken"
    """A pod of that name exists and is not ours, or is on its way out: wait."""
    MISSING = "Missing"
    """Something that the pod needs is not there yet (its service account, its priority class): may come."""
    FAILING = "Failing"
    """The API server, or a webhook that it asks, failed or gave no answer: may heal. Whether the pod was made, the next list shows."""


@dataclass(frozen=True)
class Obstacle:
    """The last create of the current attempt's pod was refused. Kept in memory by the shell, per job, until a create succeeds."""

    kind: ObstacleKind
    epoch: int
    message: str
    """The API server's own text."""
    at: float
    """When it was refused (wall clock seconds)."""
    count: int = 1
    """Refusals in a row."""


@dataclass(frozen=True)
class Observed:
    """Everything that a decision about one job may depend on."""

    name: str
    namespace: str
    uid: str
    generation: int
    now: float
    """Wall clock seconds since 1970. The only clock that a decision sees."""
    deleting: bool = False
    """The job bears a deletion timestamp."""
    spec: FineTuneJobSpec | None = None
    """None if it cannot be read; then `spec_error` says why."""
    spec_error: str = ""
    status: FineTuneJobStatus = field(default_factory=FineTuneJobStatus)
    pods: tuple[ObservedPod, ...] = ()
    """All pods of this job, by epoch and rank."""
    live: bool = True
    """`pods` comes from a list that was asked for after the job was read. False (a cache): a missing pod is not believed to be gone."""
    notices: tuple[Notice, ...] = ()
    """About nodes of this job's pods."""
    obstacle: Obstacle | None = None
    pools: tuple[PoolStatus, ...] = ()
    """Trouble of pools as all jobs together know it (`pools.shared`); this job's own is in its status."""
    settings: Settings = Settings()


@dataclass(frozen=True)
class CreatePod:
    """Make the pod of the persisted attempt. 409 means done only if a live GET shows our owner UID and epoch and no deletion."""

    name: str
    epoch: int
    rank: int
    pool: str
    """`<instance type or *>/<zone or *>/<spot|on-demand>`; see `pools.Pool.parse`."""
    min_slot: int
    image_digest: str = ""
    """Image of the first attempt, as `images.resolved` says; empty for the first attempt."""
    predecessor: int = 0
    predecessor_until: float = 0.0
    """As in `RunEnv`."""


@dataclass(frozen=True)
class DeletePod:
    """Delete one pod, UID as precondition; 404 means done. With `tell`, first POST it to the trainer (best effort, short time-out)."""

    name: str
    uid: str
    grace_seconds: int
    """0 is never used: what cannot be ended is fenced by the log."""
    ip: str = ""
    tell: CheckpointRequest | None = None


@dataclass(frozen=True)
class AskCheckpoint:
    """POST /checkpoint to a trainer that stays (best effort, once per notice)."""

    pod: str
    ip: str
    request: CheckpointRequest


Action = CreatePod | DeletePod | AskCheckpoint


@dataclass(frozen=True)
class EventSpec:
    """A Kubernetes event on the job; emitted only after the status write succeeded."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str


@dataclass(frozen=True)
class Plan:
    """The answer. `status` equal to the observed one means: nothing to write."""

    rule: str
    """Name of the rule that answered, for logs and metrics."""
    status: FineTuneJobStatus
    action: Action | None = None
    events: tuple[EventSpec, ...] = ()
    requeue_after: float | None = None
    """Seconds after which to look again even if nothing is heard; None: the resync is enough."""
    look_live: bool = False
    """The observation came from a cache and a decision needs a live list: observe again with one, at once."""
    details: Mapping[str, object] = field(default_factory=dict)
    """For the log line of the decision."""
