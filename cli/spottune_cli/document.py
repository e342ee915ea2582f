"""A log for programs: one JSON document, everything that the table shows and the digests, without keys of single files."""

from __future__ import annotations

from typing import Any

from spottune_cli.history import History, Row, Standing
from spottune_contract.records import Claim
from spottune_trainer.checkpoint.lineage import Damaged


def document(history: History, location: str, limit: int | None = None) -> dict[str, Any]:
    """`limit`: only so many of the newest records (None: all); `records` tells how many there are."""
    rows = history.rows if limit is None else history.rows[len(history.rows) - min(limit, len(history.rows)) :]
    return {
        "location": location,
        "records": len(history.rows),
        "head": history.log.head,
        "final": history.log.final is not None,
        "maxEpoch": history.log.max_epoch,
        "attempts": [
            {"epoch": a.writer.epoch, "writer": a.writer.token, "slot": a.slot} | (_who(a.claim) if a.claim is not None else {})
            for a in history.attempts
        ],
        "log": [_record(row) for row in rows],
    }


def _who(claim: Claim) -> dict[str, Any]:
    return {"node": claim.node, "podUid": claim.pod_uid, "computeClass": claim.compute_class, "claimedAt": claim.written_at}


def _record(row: Row) -> dict[str, Any]:
    entry = row.entry
    told: dict[str, Any] = {"slot": row.slot, "kind": "DAMAGED"}
    if not isinstance(entry, Damaged):
        told = entry.model_dump(mode="json", exclude={"files", "protocol"})
    told |= {"standing": row.standing.value, "effective": row.standing not in (Standing.VOID, Standing.DAMAGED)}
    if row.size:
        told |= {"bytes": row.size}
    if row.data:
        told |= {"data": row.data.value}
    return told | ({"why": row.why} if row.why else {})
