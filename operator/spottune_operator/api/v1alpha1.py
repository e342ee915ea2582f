"""`FineTuneJob` of `spottune.dev/v1alpha1`: spec and status as types. The CRD is generated from here, docstrings included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from spottune_contract.exitcodes import Verdict
from spottune_contract.runspec import Duration, RunSpec, SpecModel
from spottune_operator.api.reasons import ConditionType, Phase, Reason

RESERVED_ENV_PREFIXES = ("SPOTTUNE_", "AWS_", "LD_", "PYTHON")
"""Names that would change credentials, loading of code or our own contract."""
RESERVED_LABEL_PREFIX = "spottune.dev/"
APPARMOR_PREFIX = "container.apparmor.security.beta.kubernetes.io/"
"""Annotations that the API server still takes for a container's AppArmor profile: `unconfined` is outside Pod Security `restricted`."""
STATUS_LIMIT = 8 * 1024
"""Bytes of the status as JSON that are never exceeded."""
ATTEMPTS_KEPT, POOLS_KEPT = 10, 12
MESSAGE_LIMIT = 1024
"""Characters of a condition's message."""

LabelKey = Annotated[str, Field(max_length=317, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
DnsName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Quantity = Annotated[
    int | Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")],
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
Resources = Annotated[dict[Annotated[str, Field(max_length=63)], Quantity], Field(max_length=16)]


class CapacitySpec(SpecModel):
    """Which machines an attempt may run on. A pool is one instance type in one zone; another attempt may get another pool."""

    instance_types: Annotated[tuple[Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]*$")], ...], Field(max_length=16)] = ()
    """Instance types in order of preference, for example `g5.xlarge`. Empty: any."""
    zones: Annotated[tuple[Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9][a-z0-9-]*$")], ...], Field(max_length=8)] = ()
    """Zones in order of preference, for example `us-east-1a`. Empty: any."""
    spot: Literal["Only", "Never"] = "Only"
    """`Only`: interruptible machines. `Never`: on-demand machines."""


class LimitsSpec(SpecModel):
    """When to give up. Interruptions and waiting for capacity never count."""

    failures: Annotated[int, Field(ge=1, le=100)] = 3
    """The job fails with this many failed attempts since the last new commit."""
    no_progress: Annotated[int, Field(ge=1, le=100)] = 3
    """The job fails with this many failed attempts in a row that committed nothing new."""


class ResourcesSpec(SpecModel):
    """Resources of the trainer container."""

    requests: Resources = Field(default_factory=dict)
    """What the scheduler reserves, for example `cpu: 4`, `memory: 16Gi`."""
    limits: Resources = Field(default_factory=dict)
    """What the container may use at most, for example `nvidia.com/gpu: 1`."""


class TolerationSpec(SpecModel):
    """Lets the pod onto nodes with a taint. The key is required: a pod that tolerates everything could not be drained."""

    key: Annotated[LabelKey, Field(min_length=1)]
    """Key of the taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """`Equal` compares `value`, `Exists` does not."""
    value: LabelValue = ""
    """Value of the taint, with `Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; all of them if left out."""


class EnvVarSpec(SpecModel):
    """A literal environment variable of the trainer container."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name. The prefixes SPOTTUNE_, AWS_, LD_ and PYTHON are reserved."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Value, taken literally: `$(NAME)` is not expanded."""

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        if name.startswith(RESERVED_ENV_PREFIXES):
            raise ValueError(f"podOverrides.env: {name} has a reserved prefix (SPOTTUNE_, AWS_, LD_, PYTHON): choose another name")
        return name


class PodOverridesSpec(SpecModel):
    """What may be changed of the trainer pod. Anything else cannot be written at all."""

    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")] | None = None
    """Image of the trainer; without it the one of the chart. Later attempts run the digest that the first one found."""
    resources: ResourcesSpec | None = None
    """Resources of the trainer container; without it those of the chart."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = Field(default_factory=dict)
    """Labels that a node must have, beside the chosen pool."""
    tolerations: Annotated[tuple[TolerationSpec, ...], Field(max_length=16)] = ()
    """Taints that the pod may be placed on."""
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = Field(default_factory=dict)
    """Further labels of the pod. Keys under spottune.dev/ are reserved."""
    annotations: Annotated[dict[LabelKey, Annotated[str, Field(max_length=4096)]], Field(max_length=16)] = Field(default_factory=dict)
    """Further annotations of the pod. Keys under spottune.dev/ are reserved, and those of AppArmor."""
    env: Annotated[tuple[EnvVarSpec, ...], Field(max_length=32)] = ()
    """Further environment variables of the trainer container."""
    service_account_name: DnsName | None = None
    """Service account of the pod, whose role may reach the bucket; no API token is ever mounted. Without it `default`."""
    priority_class_name: DnsName | None = None
    """Priority class of the pod."""

    @field_validator("labels")
    @classmethod
    def _labels_are_free(cls, value: dict[str, str]) -> dict[str, str]:
        return _free_keys(value, RESERVED_LABEL_PREFIX)

    @field_validator("annotations")
    @classmethod
    def _annotations_are_free(cls, value: dict[str, str]) -> dict[str, str]:
        return _free_keys(value, RESERVED_LABEL_PREFIX, APPARMOR_PREFIX)


def _free_keys(value: dict[str, str], *reserved: str) -> dict[str, str]:
    for key in value:
        if key.startswith(reserved):
            raise ValueError(f"podOverrides: {key} is reserved: choose another prefix")
    return value


class FineTuneJobSpec(RunSpec):
    """What to train, on which data, where the state goes, and which machines may be used."""

    capacity: CapacitySpec = CapacitySpec()
    """Which machines an attempt may run on."""
    limits: LimitsSpec = LimitsSpec()
    """When to give up."""
    suspend: bool = False
    """True: commit, end the pod and wait. False again: go on from the commit."""
    cancel: bool = False
    """True: commit, end the pod and give the job up. Cannot be taken back; what was committed stays in the bucket."""
    max_duration: Duration | None = None
    """Longest time that trainers of this job may run, all attempts added up, for example `12h`. After that the job commits and fails. Waiting for machines and suspension do not count."""
    handover: Literal["Cold", "Warm"] = "Cold"
    """How an attempt follows one whose pod was asked to end. `Cold`: once that pod is gone. `Warm`: at once, on another machine; it loads model and data meanwhile, and takes over when the other has committed; after a notice that one trains on until then, if its time allows. Needs quota for two pods."""
    on_rebalance: Literal["Stay", "Move"] = "Stay"
    """What to do when a machine may go away soon (a rebalance recommendation, or somebody drains its node). `Stay`: commit at once and train on. `Move`: commit and go on elsewhere."""
    retry_token: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9._-]*$")] = ""
    """Any word. Another one than the last attempt started with lets a failed job run again, from its newest commit and with fresh limits."""
    pod_overrides: PodOverridesSpec = PodOverridesSpec()
    """What may be changed of the trainer pod."""

    def run_spec(self) -> RunSpec:
        """The part that the trainer reads."""
        return RunSpec(**{name: getattr(self, name) for name in RunSpec.model_fields})


class StatusModel(BaseModel):
    """Base of all status parts. Unknown fields are kept: a newer operator may have written them."""

    model_config = ConfigDict(
        extra="allow", frozen=True, alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Text = Annotated[str, Field(max_length=512)]
Short = Annotated[str, Field(max_length=253)]
Instant = Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]
Count = Annotated[int, Field(ge=0)]


class ConditionStatus(StatusModel):
    """One question about the job, answered."""

    type: ConditionType
    """The question."""
    status: Literal["True", "False", "Unknown"]
    """The answer; True is always the good news."""
    reason: Reason
    """Why, as a constant."""
    message: Annotated[str, Field(max_length=MESSAGE_LIMIT)] = ""
    """Why, for people, with the remedy."""
    last_transition_time: Instant
    """When the answer last changed."""
    observed_generation: Count = 0
    """Generation of the spec that the answer is about."""


class CommitStatus(StatusModel):
    """The newest durable state that the operator has heard of."""

    slot: Count
    """Its place in the log."""
    epoch: Count
    """The attempt that wrote it."""
    step: Count
    """Finished optimizer steps in it."""
    reason: Short
    """Why it was made: interval, notice, final, …"""
    at: Short = ""
    """When it was written, by the clock of its writer."""
    digests: Annotated[dict[str, Short], Field(max_length=8)] = Field(default_factory=dict)
    """SHA-256 of each logical file: what two runs compare."""


class LogStatus(StatusModel):
    """What the operator knows of the checkpoint log."""

    head_slot: Annotated[int, Field(ge=-1)] = -1
    """Highest slot that any attempt reported; -1 for none."""
    max_epoch: Count = 0
    """Highest epoch that any attempt reported."""
    location: Annotated[str, Field(max_length=1280)] = ""
    """Where it is: `s3://BUCKET/PREFIX/<cluster>/<namespace>/<uid>`. `spottune log` reads it."""


class InterruptionStatus(StatusModel):
    """What an interruption took. Seconds count from `at`; what is not known, or never came to pass, is left out."""

    at: Annotated[float, Field(ge=0)] = 0.0
    """When it began (seconds since 1970): the notice was made, or the trainer was told to end, or, without any notice, the loss was seen."""
    source: Short = ""
    """Who announced it first; `none` if nobody did."""
    heard: Annotated[dict[str, float], Field(max_length=4)] = Field(default_factory=dict)
    """When each source was heard."""
    signal: float | None = None
    """The trainer knew: its node's agent or the operator told it, or it got SIGTERM."""
    step_end: float | None = None
    """It was done with the micro-step under way."""
    snapshot: float | None = None
    """The state was copied."""
    durable: float | None = None
    """The state was committed to the bucket."""
    gone: float | None = None
    """The pod had ended."""
    placed: float | None = None
    """The next attempt that came so far had a node."""
    started: float | None = None
    """Its container was started."""
    loaded: float | None = None
    """It had loaded model and data."""
    first_step: float | None = None
    """It had finished an optimizer step: useful work again."""
    steps_redone: Count | None = None
    """Finished steps that were done again, because they were not committed."""


class AttemptStatus(StatusModel):
    """One attempt: a pod from its start to its verdict."""

    epoch: Count
    """Number of the attempt."""
    generation: Count = 0
    """Generation of the spec that it started with; an edit after that is for the next one."""
    pod: Short = ""
    """Name of its pod."""
    node: Short = ""
    """Node it ran on."""
    pool: Short = ""
    """Pool it was sent to: instance type / zone / capacity type."""
    zone: Short = ""
    """Zone it ran in."""
    step_from: Count | None = None
    """Step it went on from."""
    step_to: Count | None = None
    """Last finished step that it reported."""
    claimed: bool = False
    """It took over the log. Only such attempts can spend a budget, or those whose container crashed by itself."""
    committed: bool | None = None
    """It made a new commit. Left out while not known: the next attempt settles it."""
    counted: bool = False
    """It spent from the failure budget."""
    verdict: Verdict | None = None
    """What its end means. Left out while it runs, and for an attempt that never ran."""
    reason: Reason
    """What ended it, as a constant; `AttemptStarted` while nothing does."""
    message: Annotated[str, Field(max_length=256)] = ""
    """What ended it, for people."""
    started_at: Instant = ""
    """When it was decided."""
    running_at: Instant = ""
    """When its trainer was first seen running."""
    ended_at: Instant = ""
    """When its end was accounted."""
    notice_to_commit_seconds: float | None = None
    """From the interruption notice to the durable commit, as the trainer measured it."""
    interruption: InterruptionStatus | None = None
    """What the interruption took that ended it, and how long it was until useful work was done again."""


class PoolStatus(StatusModel):
    """A pool to stay away from for a while."""

    pool: Short
    """Instance type / zone / capacity type."""
    failures: Count = 0
    """Starts in a row for which there was no machine."""
    not_before: Annotated[float, Field(ge=0)] = 0.0
    """Not used before this time, because no machine was to be had (seconds since 1970)."""
    avoid_until: Annotated[float, Field(ge=0)] = 0.0
    """Used before this time only if nothing else is left, because it was interrupted (seconds since 1970)."""


class NoticeStatus(StatusModel):
    """The interruption notice or recommendation that the current attempt has got."""

    epoch: Count
    """Attempt that it concerns."""
    kind: Literal["Interruption", "Rebalance"]
    """What was announced."""
    source: Short = ""
    """Who told."""
    node: Short = ""
    """Node that goes away."""
    deadline: Annotated[float, Field(ge=0)] = 0.0
    """When it goes away (seconds since 1970); 0 if not told."""
    announced_at: Annotated[float, Field(ge=0)] = 0.0
    """When its source made it (seconds since 1970); 0 if not told."""
    heard_at: Annotated[float, Field(ge=0)] = 0.0
    """When the operator heard of it (seconds since 1970)."""


class HandoverStatus(StatusModel):
    """The attempt before the current one, which may still commit: the current one waits for it before it takes over."""

    epoch: Count
    """Number of that attempt."""
    until: Annotated[float, Field(ge=0)] = 0.0
    """When the time of its pod is up (seconds since 1970)."""


class FineTuneJobStatus(StatusModel):
    """What the operator has made of the job. Derived, complete, at most 8 KiB."""

    phase: Phase = Phase.PENDING
    """One word for where the job is."""
    observed_generation: Count = 0
    """Generation of the spec that this status is about."""
    attempt: Count = 0
    """Number of the current attempt (its epoch). Rises before the attempt's pod exists, never falls."""
    accounted: Count = 0
    """Highest attempt whose end is recorded. Each is recorded once."""
    step: Count = 0
    """Finished optimizer steps."""
    total_steps: Count = 0
    """Optimizer steps in all; 0 until the trainer has told."""
    percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Finished part."""
    loss: float | None = None
    """Training loss of the last step."""
    eval_loss: float | None = None
    """Loss of the last evaluation."""
    eta: Instant = ""
    """When the job is done if nothing happens."""
    progress_at: Annotated[float, Field(ge=0)] = 0.0
    """When step and losses were last taken over (seconds since 1970)."""
    interruptions: Count = 0
    """Attempts that the machine or the cluster took away."""
    early_interruptions: Count = 0
    """Attempts in a row that ended before their first step and spent no budget: they make the next one wait longer."""
    failures: Count = 0
    """Failed attempts since the last new commit."""
    no_progress: Count = 0
    """Failed attempts in a row that committed nothing new."""
    active_seconds: Annotated[float, Field(ge=0)] = 0.0
    """How long trainers have run, without the attempt that still does."""
    retry_token: Short = ""
    """`spec.retryToken` as the last attempt started with it."""
    pod: Short = ""
    """Name of the current pod."""
    pod_uid: Short = ""
    """UID of the current pod once it was seen; empty before."""
    node: Short = ""
    """Node of the current pod."""
    pool: Short = ""
    """Pool of the current attempt: instance type / zone / capacity type."""
    zone: Short = ""
    """Zone of the current pod."""
    not_before: Annotated[float, Field(ge=0)] = 0.0
    """No attempt starts before this time (seconds since 1970)."""
    notice: NoticeStatus | None = None
    """The interruption notice that the current attempt has got."""
    handover: HandoverStatus | None = None
    """The attempt that the current one takes over from, if that could still run when this one was started."""
    output: Annotated[str, Field(max_length=1024)] = ""
    """Where the finished adapter is."""
    last_commit: CommitStatus | None = None
    """The newest durable state that was reported."""
    log: LogStatus = LogStatus()
    """What is known of the checkpoint log."""
    first_image_digest: Annotated[str, Field(max_length=512)] = ""
    """Image of the first attempt: its repository and the digest that the node found; all later ones use the same."""
    first_compute_class: Text = ""
    """Compute class of the first attempt, as the trainer told it."""
    conditions: Annotated[tuple[ConditionStatus, ...], Field(max_length=16)] = ()
    """The questions about the job, answered."""
    attempts: Annotated[tuple[AttemptStatus, ...], Field(max_length=ATTEMPTS_KEPT)] = ()
    """The latest attempts, oldest first."""
    pools: Annotated[tuple[PoolStatus, ...], Field(max_length=POOLS_KEPT)] = ()
    """Pools to stay away from for a while."""

    def document(self) -> dict[str, Any]:
        """As it is written: camelCase, what is not set left out."""
        written = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        # A zero in these says something to people, and `attempt` is compared by the API server.
        return (
            {"phase": self.phase.value} | {name: getattr(self, name) for name in ("attempt", "step", "percent", "interruptions")} | written
        )

    @classmethod
    def parse(cls, document: Mapping[str, Any] | None) -> Self:
        """The status in `document`; total: a field that this operator cannot read is left out, the others are kept."""
        remaining = dict(document or {})
        while True:
            try:
                return cls.model_validate(remaining)
            except ValidationError as error:
                unreadable = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
                names = {n for n, f in cls.model_fields.items() if n in unreadable or f.alias in unreadable}
                dropped = {k for k in remaining if k in unreadable or k in names}
                if not dropped:
                    return cls()
                remaining = {k: v for k, v in remaining.items() if k not in dropped}
