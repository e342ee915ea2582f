"""Small logs by name: what a test says is what is odd about one."""

from __future__ import annotations

import hashlib
from typing import Any

from spottune_cli.audit import Evidence
from spottune_cli.history import History, understand
from spottune_contract.layout import data_key
from spottune_contract.records import Claim, Commit, DataFile, Origin, Rejected, Resume
from spottune_trainer.checkpoint.lineage import Damaged, Entry, fold

FILES = ("adapter.safetensors", "trainer.json")


ORIGIN = Origin(location="s3://b/other", slot=7, epoch=3, writer="writer0003", save="save0007")


def writer(epoch: int) -> str:
    return f"writer{epoch:04d}"


def stamp(slot: int) -> str:
    """One record a minute from half past eleven in the evening, UTC."""
    return (
        f"2026-11-{27 + (30 + slot) // 60 // 24 + (slot >= 30):02d}T{(23 + (30 + slot) // 60) % 24:02d}:{(30 + slot) % 60:02d}:00.000+00:00"
    )


def claim(slot: int, epoch: int, **changes: Any) -> Claim:
    values = {
        "pod_uid": f"pod-uid-{epoch}", "node": f"node-{epoch}", "spec_hash": "", "compute_class": "cpu avx2", "written_at": stamp(slot)
    }  # fmt: skip
    return Claim(slot=slot, epoch=epoch, writer=writer(epoch), **(values | changes))


def resume(slot: int, epoch: int, parent: int | None, *rejected: int) -> Resume:
    stepped_over = tuple(Rejected(slot=r, why="adapter.safetensors: SHA-256 differs") for r in rejected)
    return Resume(slot=slot, epoch=epoch, writer=writer(epoch), parent=parent, rejected=stepped_over, written_at=stamp(slot))


def commit(slot: int, epoch: int, step: int, reason: str = "interval", **changes: Any) -> Commit:
    save = f"save{slot:04d}"
    files = tuple(
        DataFile(name=name, key=data_key(epoch, writer(epoch), step, save, name), size=40_000_000, sha256=digest(name, step))
        for name in FILES
    )
    values: dict[str, Any] = {
        "samples_seen": 6 * step, "loss": 3.5 - step / 100, "files": files, "digests": {name: digest(name, step) for name in FILES},
        "timings": {"upload": 1.25, "snapshot": 0.004}, "written_at": stamp(slot),
    }  # fmt: skip
    return Commit(slot=slot, epoch=epoch, writer=writer(epoch), save=save, step=step, reason=reason, **(values | changes))  # type: ignore[arg-type]


def digest(name: str, step: int) -> str:
    return hashlib.sha256(f"{name} {step}".encode()).hexdigest()


def damaged(slot: int) -> Damaged:
    return Damaged(slot, "hash differs from content")


def keys_of(*commits: Entry) -> list[str]:
    return [file.key for c in commits if isinstance(c, Commit) for file in c.files]


def story() -> list[Entry]:
    """Two attempts, a paused writer's leftover, a rejected commit and its repetition, an end."""
    return [
        claim(0, 1),
        resume(1, 1, None),
        commit(2, 1, 10, eval_loss=3.21),
        commit(3, 1, 20, "notice", timings={"upload": 0.8, "notice_to_commit": 1.1}),
        claim(4, 2),
        resume(5, 2, 2, 3),
        commit(6, 1, 21, "sigterm"),
        commit(7, 2, 10, "recommit", timings={}),
        commit(8, 2, 30),
        commit(9, 2, 60, "final", eval_loss=2.8),
    ]


def history(entries: list[Entry], *swept: int, keep_last: int | None = None) -> History:
    """A log whose commits all have their data, but those in `swept` slots."""
    return understand(fold(entries), keys_of(*(e for e in entries if e.slot not in swept)), keep_last=keep_last)


def evidence(entries: list[Entry], *, beyond: tuple[int, ...] = (), keys: tuple[str, ...] = ()) -> Evidence:
    return Evidence(history(entries), beyond, (*keys_of(*entries), *keys))
