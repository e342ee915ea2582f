"""Records of the checkpoint log: canonical JSON that carries its own SHA-256.

A record is one object, created once. `encode` and `decode` are the only way between bytes and records; `decode` is total over
bytes: it returns a record or raises `UnreadableRecord`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from spottune_contract.layout import parse_data_key
from spottune_contract.version import LOG_PROTOCOL

MAX_RECORD_BYTES = 1 << 20
_TOKEN = r"^[a-z0-9]{8,32}$"
_SHA256 = r"^[0-9a-f]{64}$"

Slot = Annotated[int, Field(ge=0)]
Epoch = Annotated[int, Field(ge=1)]
Token = Annotated[str, Field(pattern=_TOKEN)]
Sha256 = Annotated[str, Field(pattern=_SHA256)]


class UnreadableRecord(ValueError):
    """The bytes are no record of this protocol: damaged, foreign, or of a newer protocol."""


class ForeignRecord(UnreadableRecord):
    """The bytes are intact (their hash is right) but not of this protocol: a newer release wrote them. Never to be stepped over."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    protocol: Literal[1] = LOG_PROTOCOL
    slot: Slot
    epoch: Epoch
    writer: Token
    written_at: str = ""
    """Wall clock of the writer, RFC 3339, for people only: no decision reads it."""


class Claim(_Record):
    """From here on its writer owns the log, if its epoch is above that of every effective CLAIM before it."""

    kind: Literal["CLAIM"] = "CLAIM"
    pod_uid: str
    node: str = ""
    spec_hash: str
    image_digest: str = ""
    compute_class: str
    """Digest-free, readable: accelerator or instruction set, threads, world size, micro-batch, library versions."""
    versions: dict[str, str] = Field(default_factory=dict)


class Rejected(BaseModel):
    """A commit that a resume had to step over, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slot: Slot
    why: str


class Resume(_Record):
    """What the owner goes on from. `parent` None means: from the start, because there is no effective COMMIT."""

    kind: Literal["RESUME"] = "RESUME"
    parent: Slot | None
    rejected: tuple[Rejected, ...] = ()


class DataFile(BaseModel):
    """One data object of a commit. `name` is the logical file; a large one has parts 0..n-1, in order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    part: Annotated[int, Field(ge=0)] = 0
    key: str
    """Relative to the job's root; always inside the commit's own save folder."""
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


def file_digest(parts: Sequence[str]) -> str:
    """What a COMMIT states for a logical file, from the SHA-256 of its parts (hexadecimal), so that no byte is hashed twice.

    One part: its own. Several: SHA-256 of their digests, 32 bytes each, one after the other.
    """
    return parts[0] if len(parts) == 1 else hashlib.sha256(b"".join(map(bytes.fromhex, parts))).hexdigest()


class Origin(BaseModel):
    """The commit of another job's log that an `imported` commit repeats."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    location: str
    """Root of that job, `s3://BUCKET/PREFIX/<cluster>/<namespace>/<uid>`."""
    slot: Slot
    epoch: Epoch
    writer: Token
    save: Token


CommitReason = Literal["interval", "notice", "rebalance", "sigterm", "request", "final", "recommit", "imported"]


class Commit(_Record):
    """A durable state. `step` counts finished optimizer steps; FINAL is a Commit with reason `final`."""

    kind: Literal["COMMIT"] = "COMMIT"
    save: Token
    step: Annotated[int, Field(ge=0)]
    samples_seen: Annotated[int, Field(ge=0)]
    reason: CommitReason
    pinned: bool = False
    pins: tuple[Slot, ...] = ()
    """Pinned commits before this one in the lineage: whoever reads only the end of the log must know whose data stay."""
    files: tuple[DataFile, ...]
    digests: dict[str, Sha256] = Field(default_factory=dict)
    """`file_digest` of each logical file: what two runs compare."""
    loss: float | None = None
    eval_loss: float | None = None
    timings: dict[str, float] = Field(default_factory=dict)
    """Seconds: `notice_to_commit`, `micro_step`, `snapshot`, `upload`, … Only what was measured."""
    origin: Origin | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of an `imported` commit: where its state comes from."""

    @field_validator("files")
    @classmethod
    def _inside_one_save(cls, files: tuple[DataFile, ...]) -> tuple[DataFile, ...]:
        prefixes = set()
        for file in files:
            parsed = parse_data_key(file.key)
            if parsed is None:
                raise ValueError(f"{file.key!r} is not a data key")
            prefixes.add((parsed.epoch, parsed.writer, parsed.step, parsed.save))
        if len(prefixes) > 1:
            raise ValueError("files of several saves in one commit")
        return files


Record = Annotated[Claim | Resume | Commit, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[Claim | Resume | Commit] = TypeAdapter(Record)


def canonical(document: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def encode(record: Claim | Resume | Commit) -> bytes:
    """Bytes of a record, its own SHA-256 included (over the canonical JSON without the field `sha256`)."""
    body = record.model_dump(mode="json")
    body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    return canonical(body)


def decode(data: bytes, slot: int) -> Claim | Resume | Commit:
    """The record that `data` holds for `slot`. Raises `UnreadableRecord` for anything else, never another exception."""
    if len(data) > MAX_RECORD_BYTES:
        raise UnreadableRecord(f"slot {slot}: {len(data)} bytes are more than a record may have")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnreadableRecord(f"slot {slot}: not JSON ({type(error).__name__})") from None
    if not isinstance(body, dict) or not isinstance(body.get("sha256"), str):
        raise UnreadableRecord(f"slot {slot}: no record with a hash")
    stated = body.pop("sha256")
    try:
        actual = hashlib.sha256(canonical(body)).hexdigest()
        if actual != stated:
            raise UnreadableRecord(f"slot {slot}: hash differs from content")
        record = _ADAPTER.validate_python(body, strict=False)
    except ValidationError as error:
        raise ForeignRecord(f"slot {slot}: {error.error_count()} fields are not of protocol {LOG_PROTOCOL}") from None
    except UnreadableRecord:
        raise
    except (ValueError, RecursionError) as error:
        raise UnreadableRecord(f"slot {slot}: {type(error).__name__}") from None
    if record.slot != slot:
        raise UnreadableRecord(f"slot {slot}: holds the record of slot {record.slot}")
    return record
