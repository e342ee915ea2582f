"""S3 requests of one periodic checkpoint, retention included."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.checkpoint.notice import CLAIM
from benchmarks.checkpoint.upload import sink_server, state
from benchmarks.report import Figure
from spottune_trainer.checkpoint.log import CheckpointLog
from spottune_trainer.checkpoint.store import Body, DeleteResult, GetResult, HeadResult, ListResult, PutResult, Store

STATE_BYTES = 161_000_000


class ByKind:
    """A store that counts the requests it passes on, by kind."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = store.name
        self.made: Counter[str] = Counter()

    def put(self, key: str, body: Body) -> PutResult:
        self.made["PUT"] += 1
        return self._store.put(key, body)

    def get(self, key: str, limit: int) -> GetResult:
        self.made["GET"] += 1
        return self._store.get(key, limit)

    def head(self, key: str) -> HeadResult:
        self.made["HEAD"] += 1
        return self._store.head(key)

    def list(self, prefix: str, start_after: str) -> ListResult:
        self.made["LIST"] += 1
        return self._store.list(prefix, start_after)

    def delete(self, key: str) -> DeleteResult:
        self.made["DELETE"] += 1
        return self._store.delete(key)

    def reconnect(self, *, renew: bool = False) -> None:
        self._store.reconnect(renew=renew)


def measure(quick: bool) -> Sequence[Figure]:
    """The sixth checkpoint of a run that keeps three."""
    files = state(STATE_BYTES)
    with sink_server() as server, tempfile.TemporaryDirectory() as folder:
        store = ByKind(server.store(Path(folder)))
        log = CheckpointLog(store, epoch=1, keep_last=3)
        log.claim(**CLAIM, versions={})
        log.resume(lambda commit, files: None)
        for step in range(1, 7):
            store.made.clear()
            log.commit(files, step=step, samples_seen=step, reason="interval")
            log.retain()
    made = ", ".join(f"{count} {kind}" for kind, count in sorted(store.made.items()))
    size = sum(map(len, files.values())) / 1e6
    return [
        Figure(
            "S3 requests per checkpoint",
            store.made.total(),
            "requests",
            detail=f"{made}; {size:.0f} MB in {len(files)} files, with retention; DELETE costs nothing on S3",
        )
    ]
