"""What two runs have in common: read from their checkpoint logs, where every finished state has its digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from spottune_contract.layout import S3Location, slot_key
from spottune_contract.records import Claim, Commit, Resume, decode

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

COMPARED = {
    "adapter.safetensors": "adapter",
    "optimizer.safetensors": "optimizer state",
    "history.safetensors": "losses, learning rates, sample ids",
}


class NotFinished(RuntimeError):
    """A log without a FINAL record."""


def read_log(s3: S3Client, root: S3Location) -> list[Claim | Resume | Commit]:
    """Every record of the log below `root`, in order. Raises `UnreadableRecord` for a damaged one."""
    records: list[Claim | Resume | Commit] = []
    while True:
        slot = len(records)
        try:
            body = s3.get_object(Bucket=root.bucket, Key=root.key(slot_key(slot)))["Body"].read()
        except s3.exceptions.NoSuchKey:
            return records
        records.append(decode(body, slot))


def final_digests(records: Sequence[Claim | Resume | Commit]) -> Mapping[str, str]:
    """SHA-256 of each compared file in the FINAL record. Raises `NotFinished`."""
    final = next((r for r in reversed(records) if isinstance(r, Commit) and r.reason == "final"), None)
    if final is None:
        raise NotFinished("the log has no FINAL record: the job did not finish")
    return {name: final.digests[name] for name in COMPARED}


@dataclass(frozen=True)
class Interrupted:
    """One interruption, from the point of view of the work. Times are wall clock seconds since 1970."""

    kind: str
    at: float
    epoch: int
    """The attempt that was interrupted."""
    step_reached: int
    """Last finished optimizer step that was seen before the machine was gone."""
    told: bool
    """Whether the trainer was told in time."""


@dataclass(frozen=True)
class Cost:
    """What one interruption cost."""

    kind: str
    step_reached: int
    resumed_from: int
    notice_to_commit: float | None
    """Seconds; None without a notice or if nothing was committed after it."""
    to_next_step: float | None
    """Seconds from the notice, or the loss of power, to the end of the next useful optimizer step."""

    @property
    def redone(self) -> int:
        return max(0, self.step_reached - self.resumed_from)


def costs(
    records: Sequence[Claim | Resume | Commit], interruptions: Sequence[Interrupted], first_step_at: Mapping[int, float]
) -> list[Cost]:
    """What each interruption cost, from the log and from when each attempt (by epoch) finished its first step."""
    found = []
    by_slot = {r.slot: r for r in records}
    for event in interruptions:
        claim = next((r for r in records if isinstance(r, Claim) and r.epoch > event.epoch), None)
        # The attempt that claimed next may have been taken away before it had resumed; then another one has.
        resume = next((r for r in records if claim and isinstance(r, Resume) and r.slot > claim.slot), None)
        parent = by_slot.get(resume.parent) if resume and resume.parent is not None else None
        last = next(
            (r for r in records if isinstance(r, Commit) and _seconds(r.written_at) >= event.at and (claim is None or r.slot < claim.slot)),
            None,
        )
        first = first_step_at.get(resume.epoch) if resume else None
        found.append(
            Cost(
                kind=event.kind,
                step_reached=event.step_reached,
                # Without a later attempt the interrupted one has finished the job.
                resumed_from=parent.step if isinstance(parent, Commit) else 0 if claim else event.step_reached,
                notice_to_commit=_seconds(last.written_at) - event.at if last and event.told else None,
                to_next_step=first - event.at if first else None,
            )
        )
    return found


def _seconds(written_at: str) -> float:
    return datetime.fromisoformat(written_at).timestamp() if written_at else 0.0
