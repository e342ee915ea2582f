"""What a claim costs on a long log: from the newest known slot, and for comparison by reading all of it."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.report import Figure
from benchmarks.servers import job_store, seaweedfs
from spottune_contract.layout import data_key, slot_key
from spottune_contract.records import Claim, Commit, DataFile, Resume, encode
from spottune_trainer.checkpoint.drive import Driver, Patience
from spottune_trainer.checkpoint.lineage import Writer
from spottune_trainer.checkpoint.protocol import Protocol
from spottune_trainer.checkpoint.store import Body, DeleteResult, GetResult, HeadResult, ListResult, PutResult, Store

RECORDS = 5_000
PATIENCE = Patience(unavailable=600.0, denied=0.0)


class Counting:
    """A store that counts the requests it passes on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = store.name
        self.requests = 0
        self._lock = threading.Lock()

    def _count(self) -> Store:
        with self._lock:
            self.requests += 1
        return self._store

    def put(self, key: str, body: Body) -> PutResult:
        return self._count().put(key, body)

    def get(self, key: str, limit: int) -> GetResult:
        return self._count().get(key, limit)

    def head(self, key: str) -> HeadResult:
        return self._count().head(key)

    def list(self, prefix: str, start_after: str) -> ListResult:
        return self._count().list(prefix, start_after)

    def delete(self, key: str) -> DeleteResult:
        return self._count().delete(key)

    def reconnect(self, *, renew: bool = False) -> None:
        self._store.reconnect(renew=renew)


def measure(quick: bool) -> Sequence[Figure]:
    """Claims one epoch after the other on a log of 5,000 records (600 if `quick`) in SeaweedFS."""
    records = 600 if quick else RECORDS
    with seaweedfs() as server:
        store = Counting(job_store(server))
        _fill(store, records)
        epoch = 2
        known: list[float] = []
        requests = 0
        for _ in range(3 if quick else 9):
            seconds, requests = _claim(store, epoch, min_slot=records)
            known.append(seconds)
            epoch += 1
        unknown, unknown_requests = _claim(store, epoch, min_slot=0)
        whole, whole_requests = _claim(store, epoch + 1, min_slot=0, window=1 << 40)
    return [
        Figure(
            f"claim, log of {records} records",
            statistics.median(known),
            "s",
            goal=2.0,
            detail=f"{requests} requests, newest slot known; {unknown:.2f} s ({unknown_requests} requests) if the operator knows nothing; "
            f"reading everything: {whole:.2f} s ({whole_requests} requests)",
        )
    ]


def _claim(store: Counting, epoch: int, *, min_slot: int, window: int = 32) -> tuple[float, int]:
    """Seconds and requests of one claim."""
    protocol = Protocol(Writer(epoch, f"bench{epoch:04d}"), min_slot=min_slot, token=lambda: "unused00", stamp=lambda: "", window=window)
    steps = protocol.claim(pod_uid="", node="", spec_hash="", image_digest="", compute_class="cpu", versions={})
    before, started = store.requests, time.monotonic()
    outcome = Driver(store).run(steps, patience=PATIENCE)
    seconds = time.monotonic() - started
    assert outcome.final is None
    return seconds, store.requests - before


def _fill(store: Store, records: int) -> None:
    """One attempt that committed as often as it takes; only the log is written, no data."""

    def write(slot: int) -> None:
        store.put(slot_key(slot), encode(_record(slot)))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(records)))


def _record(slot: int) -> Claim | Resume | Commit:
    writer = "bench0001"
    if slot == 0:
        return Claim(slot=0, epoch=1, writer=writer, pod_uid="", spec_hash="", compute_class="cpu")
    if slot == 1:
        return Resume(slot=1, epoch=1, writer=writer, parent=None)
    save, names = (
        f"save{slot:08d}",
        ("adapter.safetensors", "optimizer.safetensors", "history.safetensors", "rng.safetensors", "cursor.json"),
    )
    files = tuple(DataFile(name=n, key=data_key(1, writer, slot, save, n), size=1 << 20, sha256=f"{slot:064x}") for n in names)
    digests = {file.name: file.sha256 for file in files}
    return Commit(
        slot=slot,
        epoch=1,
        writer=writer,
        save=save,
        step=slot,
        samples_seen=slot,
        reason="interval",
        files=files,
        digests=digests,
        loss=1.0,
    )
