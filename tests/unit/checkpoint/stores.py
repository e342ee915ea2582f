"""Stores in memory for tests of single cases: no chance in them, one behaviour each."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from spottune_trainer.checkpoint.log import CheckpointLog
from spottune_trainer.checkpoint.protocol import ClaimOutcome
from spottune_trainer.checkpoint.store import Body, Denied, PutResult, Unknown
from tests.simulation.memory_store import Faults, MemoryStore

CLAIM = {"pod_uid": "uid", "node": "node", "spec_hash": "", "image_digest": "", "compute_class": "cpu", "versions": {}}


class QuietStore(MemoryStore):
    """No faults, but what a test puts in: `on_put` may answer instead of the store."""

    def __init__(self) -> None:
        super().__init__(random.Random(0), Faults(0, 0, 0, 0, 0, 0))
        self.on_put: Callable[[str], PutResult | None] = lambda key: None
        self.puts: list[str] = []
        self.renewed = 0
        self._lock = threading.Lock()

    def put(self, key: str, body: Body) -> PutResult:
        instead = self.on_put(key)
        with self._lock:
            self.puts.append(key)
            return instead or super().put(key, body)

    def reconnect(self, *, renew: bool = False) -> None:
        self.renewed += renew


class Gate:
    """Holds the PUTs of data back until it is opened; knows when one arrived."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.open = threading.Event()

    def __call__(self, key: str) -> PutResult | None:
        if key.startswith("data/"):
            self.arrived.set()
            self.open.wait(20)
        return None


def refusing(*prefixes: str, permanent: bool = False) -> Callable[[str], PutResult | None]:
    """Access denied to keys of these prefixes."""
    denied = Denied("AccessDenied", "s3:PutObject was refused", permanent=permanent)
    return lambda key: denied if key.startswith(prefixes) else None


def silent(*prefixes: str) -> Callable[[str], PutResult | None]:
    """No answer for keys of these prefixes, and nothing happens."""
    return lambda key: Unknown("503") if key.startswith(prefixes) else None


def owner(store: MemoryStore, epoch: int = 1, **options: int) -> CheckpointLog:
    """A process that claimed and resumed, ready to commit."""
    log = CheckpointLog(store, epoch=epoch, **options)
    claim(log)
    log.resume(lambda commit, files: None)
    return log


def claim(log: CheckpointLog) -> ClaimOutcome:
    return log.claim(**CLAIM)  # type: ignore[arg-type]


def state(step: int) -> dict[str, bytes]:
    return {"adapter.safetensors": b"weights %d" % step, "cursor.json": b"{}"}
