"""The parts of a FineTuneJob that the trainer reads. The CRD is generated from these models, docstrings included.

Every field here works; an unknown one is refused. Names are camelCase on the wire and snake_case in Python.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from spottune_contract.layout import S3Location
from spottune_contract.records import canonical

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def seconds(duration: str) -> int:
    """Seconds of a duration like `1h30m`, `5m` or `45s`. Raises `ValueError` for anything else."""
    match = _DURATION.fullmatch(duration)
    if not duration or match is None:
        raise ValueError(f"{duration!r} is not a duration; write for example 45s, 5m or 1h30m")
    hours, minutes, secs = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + secs


def _a_second_at_least(duration: str) -> str:
    if seconds(duration) < 1:
        raise ValueError("must be at least 1s")
    return duration


Duration = Annotated[
    str, Field(pattern=r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", min_length=2, max_length=16), AfterValidator(_a_second_at_least)
]


class SpecModel(BaseModel):
    """Base of all spec parts: camelCase on the wire, unknown fields refused, immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


SourceUri = Annotated[
    str,
    Field(
        min_length=2,
        max_length=1024,
        pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+|hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*|/.+)$",
    ),
]
S3Uri = Annotated[str, Field(max_length=1024, pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_][A-Za-z0-9._=-]*)*/?$")]


class ModelSpec(SpecModel):
    """The base model: a Hugging Face model directory with safetensors weights, a config and a tokenizer with a chat template."""

    source: SourceUri
    """Where the model is: `s3://BUCKET/PREFIX`, `hf://ORG/NAME` or an absolute path in the trainer image. Remote code is never run."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Commit hash of an `hf://` source, 40 hex digits. Required there, so that every attempt loads the same weights."""

    @model_validator(mode="after")
    def _revision_goes_with_hub(self) -> Self:
        if self.source.startswith("hf://") and self.revision is None:
            raise ValueError("model.revision is required for an hf:// source: give the 40-digit commit hash")
        if not self.source.startswith("hf://") and self.revision is not None:
            raise ValueError("model.revision only goes with an hf:// source: remove it")
        return self


class DatasetFormat(StrEnum):
    MESSAGES = "messages"
    PROMPT_COMPLETION = "prompt-completion"
    TEXT = "text"


class DatasetSpec(SpecModel):
    """Training data: JSON Lines files, one sample a line."""

    source: SourceUri
    """A `.jsonl` file: `s3://BUCKET/KEY` or an absolute path in the trainer image."""
    format: DatasetFormat = DatasetFormat.MESSAGES
    """`messages`: {"messages": [{"role", "content"}…]}, loss on assistant turns; `prompt-completion`: {"prompt", "completion"}, loss on the completion; `text`: {"text"}, loss on everything."""
    eval_source: SourceUri | None = None
    """Evaluation data of the same format. Without it nothing is evaluated."""
    max_length: Annotated[int, Field(ge=8, le=131072)] = 1024
    """Tokens per sample; longer samples are cut at the end."""

    @field_validator("source", "eval_source")
    @classmethod
    def _no_hub(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("hf://"):
            raise ValueError("dataset sources are s3:// or a path: download the data set and put it into a bucket")
        return value


class MethodSpec(SpecModel):
    """How the model is fine-tuned. Only `lora` so far."""

    type: Literal["lora"] = "lora"
    """`lora`: low-rank adapters on frozen weights."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank r of the adapters."""
    alpha: Annotated[float, Field(gt=0, le=4096)] = 32
    """Scaling: the adapter's output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability on the adapters' input."""
    target_modules: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(min_length=1, max_length=64)] = (
        "all-linear",
    )
    """Names of the layers that get an adapter, or the single word `all-linear`."""
    rslora: bool = False
    """Rank-stabilized scaling: alpha / sqrt(rank)."""


CHANGEABLE = frozenset({"micro_batch_size"})
"""Fields of `TrainingSpec` that may change in mid-job. All others decide what the run computes: another value would be another run."""


class TrainingSpec(SpecModel):
    """The optimization. Only `microBatchSize` may be changed while the job runs: another value of anything else would be another run."""

    max_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Optimizer steps in all. Give exactly one of `maxSteps` and `epochs`."""
    epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Passes over the training data. Give exactly one of `maxSteps` and `epochs`."""
    global_batch_size: Annotated[int, Field(ge=1, le=65536)] = 16
    """Samples per optimizer step; the same whatever machine runs it."""
    micro_batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    """Samples per forward pass; must divide `globalBatchSize`. May be changed in mid-job: the next attempt uses it, with the same samples in the same order, but not to the last bit of every loss (condition `ResumeExact`)."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    """Peak learning rate."""
    scheduler: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning-rate schedule after the warm-up; `linear` and `cosine` end at 0."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps of linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradient clipping by global norm; null switches it off."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number type of the frozen weights and the forward pass; adapters and optimizer state are always fp32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of initialization, data order and dropout."""
    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """Evaluate after every so many optimizer steps. Needs `dataset.evalSource`; with that, the base model and the end are evaluated in any case."""
    cpu_threads: Annotated[int, Field(ge=1, le=256)] = 2
    """Threads of a CPU run. Part of the job, because another number of threads gives other bits."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of training.maxSteps and training.epochs")
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError("training.microBatchSize must divide training.globalBatchSize")
        return self


class CheckpointSpec(SpecModel):
    """Where and how often the state is committed."""

    storage: S3Uri
    """`s3://BUCKET/PREFIX`. The store must honour conditional writes (`If-None-Match: *`); it is tested before anything is written."""
    endpoint: Annotated[str, Field(max_length=512, pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?$")] | None = None
    """Endpoint of an S3-compatible store; without it AWS. Also used for `s3://` sources and the output."""
    region: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9-]+$")] = "us-east-1"
    """Region of the bucket."""
    credentials_secret: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")] | None = None
    """Secret in the job's namespace with the keys `accessKeyId` and `secretAccessKey`, mounted as files. Without it the pod's own role (EKS Pod Identity, IRSA) is used."""
    interval: Duration = "5m"
    """Longest time between commits while training. A commit also follows every interruption notice."""
    every_steps: Annotated[int, Field(ge=1)] | None = None
    """Also commit after every so many optimizer steps."""
    keep_last: Annotated[int, Field(ge=2, le=1000)] = 3
    """Commits whose data are kept. The log itself is never shortened."""

    @field_validator("storage")
    @classmethod
    def _storage_parses(cls, value: str) -> str:
        S3Location.parse(value)
        return value


class OutputSpec(SpecModel):
    """Where the finished adapter goes."""

    destination: S3Uri
    """`s3://BUCKET/PREFIX` that gets a PEFT adapter: `PeftModel.from_pretrained` loads it."""


class ResumeFromSpec(SpecModel):
    """A commit of another job. Endpoint, region and credentials are those of `checkpoint`; nothing is ever written there."""

    location: S3Uri
    """Root of the other job's log, `s3://BUCKET/PREFIX/<cluster>/<namespace>/<uid>`: its `status.log.location`."""
    step: Annotated[int, Field(ge=1)] | None = None
    """Step of a commit whose data are kept (`spottune log` shows them). Without it the newest."""

    @field_validator("location")
    @classmethod
    def _location_parses(cls, value: str) -> str:
        S3Location.parse(value)
        return value


class RunSpec(SpecModel):
    """Everything that decides what a run computes, and where its state goes."""

    model: ModelSpec
    """The base model."""
    dataset: DatasetSpec
    """Training data."""
    method: MethodSpec = MethodSpec()
    """How the model is fine-tuned."""
    training: TrainingSpec
    """The optimization."""
    checkpoint: CheckpointSpec
    """Where and how often the state is committed."""
    output: OutputSpec | None = None
    """Where the finished adapter goes. Without it the adapter stays in the checkpoint storage."""
    resume_from: ResumeFromSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """Start from a commit of another job instead of step 0. Read once: when the first own commit is made, the other job is needed no more."""

    @model_validator(mode="after")
    def _evaluation_has_data(self) -> Self:
        if self.training.eval_steps is not None and self.dataset.eval_source is None:
            raise ValueError("training.evalSteps needs dataset.evalSource")
        return self

    def mathematics(self) -> dict[str, object]:
        """The parts that decide the result: two runs with equal ones are the same computation, up to the order of sums."""
        dump = self.model_dump(mode="json", by_alias=True, exclude={"training": set(CHANGEABLE)})
        return {name: dump[name] for name in ("model", "dataset", "method", "training", "resumeFrom") if name in dump}

    def spec_hash(self) -> str:
        """SHA-256 (64 hex digits) of `mathematics()`: recorded in every CLAIM."""
        return hashlib.sha256(canonical(self.mathematics())).hexdigest()
