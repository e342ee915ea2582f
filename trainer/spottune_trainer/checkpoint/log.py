"""The checkpoint log as the trainer uses it: the protocol's steps, driven against a store, with times measured."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from spottune_contract.progress import LogView
from spottune_contract.records import Commit, CommitReason, Origin
from spottune_trainer.checkpoint.drive import Driver, Patience
from spottune_trainer.checkpoint.errors import LogBlocked, LogNotUnderstood, LogOfAnotherJob, NoReadableCheckpoint
from spottune_trainer.checkpoint.lineage import MIN_KEPT, Writer, view
from spottune_trainer.checkpoint.protocol import ClaimOutcome, Facts, Protocol, Restored
from spottune_trainer.checkpoint.store import Store
from spottune_trainer.checkpoint.transfer import Files

AT_START = Patience(unavailable=30.0, denied=4.0)
"""Bad storage is known within seconds, before a model is loaded."""
AT_CLAIM = Patience(unavailable=300.0, denied=4.0)
"""A long log takes its time to be read; that the store answers is known by then."""
AT_RESUME = Patience(unavailable=300.0, denied=120.0)
AT_COMMIT = Patience(unavailable=600.0, denied=120.0)
"""Training goes on meanwhile, and a rotated secret takes a minute to reach the pod."""
AT_RETENTION = Patience(unavailable=30.0, denied=0.0)


def new_token() -> str:
    """A random identity: of a process, or of a save."""
    return secrets.token_hex(8)


class CheckpointLog:
    """One process's access to the checkpoint log of its job: `probe`, `claim`, `resume`, then `commit` as often as needed.

    One operation at a time, each under a lock; `view` never waits. All methods raise `CheckpointError`s; each bears its exit code.
    """

    def __init__(self, store: Store, *, epoch: int, writer: str | None = None, min_slot: int = 0, keep_last: int = 3) -> None:
        if keep_last < MIN_KEPT:
            raise ValueError(f"keep_last is {keep_last}: with fewer than {MIN_KEPT} commits one damaged object would end the job")
        self.writer = writer or new_token()
        self._protocol = Protocol(Writer(epoch, self.writer), min_slot=min_slot, token=new_token, stamp=_wall_clock)
        self._driver = Driver(store)
        self._store_name = store.name
        self._keep_last = keep_last
        self._lock = threading.Lock()
        self._view = view(self._protocol.log)

    def probe(self) -> None:
        """See whether the store honours conditional writes. Raises `StorageDenied` (a few seconds) or `StorageUnavailable` (30 s)."""
        with self._operation():
            self._driver.run(self._protocol.probe(self._store_name), patience=AT_START)

    def claim(
        self, *, pod_uid: str, node: str, spec_hash: str, image_digest: str, compute_class: str, versions: Mapping[str, str]
    ) -> ClaimOutcome:
        """Own the log from here on. With `final` in the outcome the run is finished already and nothing was written.

        Raises `EpochStale`, `NoReadableCheckpoint` (the log is shorter than known, or has a gap), `LogNotUnderstood`, `LogOfAnotherJob`.
        """
        with self._operation():
            steps = self._protocol.claim(
                pod_uid=pod_uid, node=node, spec_hash=spec_hash, image_digest=image_digest, compute_class=compute_class, versions=versions
            )
            return self._driver.run(steps, patience=AT_CLAIM)

    def resume(self, accept: Callable[[Commit, Files], None]) -> Restored | None:
        """Restore the newest usable commit; None if the run starts at step 0 because nothing was ever committed.

        `accept` gets files whose sizes and hashes are right and raises `Unacceptable` if they do not fit the model. Raises
        `NoReadableCheckpoint` instead of ever starting over, `Fenced` if a newer attempt took the log meanwhile.
        """
        with self._operation():
            return self._driver.run(self._protocol.resume(accept), patience=AT_RESUME)

    def rollback(self, accept: Callable[[Commit, Files], None], *, why: str) -> Restored:
        """Go back to the commit before the newest one, for good. Raises `NoReadableCheckpoint` if there is none."""
        with self._operation():
            return self._driver.run(self._protocol.rollback(accept, why), patience=AT_RESUME)

    def load(self, commit: Commit) -> Files:
        """Verified files of a commit, for example to export what another attempt finished. Raises `NoReadableCheckpoint`."""
        with self._operation():
            return self._driver.run(self._protocol.load(commit), patience=AT_RESUME)

    def commit(
        self,
        files: Files,
        *,
        step: int,
        samples_seen: int,
        reason: CommitReason,
        loss: float | None = None,
        eval_loss: float | None = None,
        timings: Mapping[str, float] | None = None,
        pinned: bool = False,
        origin: Origin | None = None,
        deadline: float | None = None,
        since: float | None = None,
        superseded: Callable[[], bool] = lambda: False,
    ) -> Commit:
        """Make a state durable. Returns only if its COMMIT was read back and counts; adds the timing `upload` (seconds).

        `since` (monotonic) is when the snapshot was handed over: if `timings` has `notice_to_snapshot`, `notice_to_commit` is added, up
        to the moment the COMMIT is sent. `deadline` is monotonic, too; without one it tries for ten minutes. Raises `Fenced`, `StorageUnavailable` (the COMMIT may
        still have landed: the next one, or the next attempt, will see), `LogBlocked`, `StorageDenied`, and `Superseded` if `superseded()`
        turns true before the end.
        """
        with self._operation():
            started = time.monotonic()
            upload = self._protocol.upload(files, step)
            uploaded = self._driver.run(upload, patience=AT_COMMIT, deadline=deadline, superseded=superseded)
            sent = time.monotonic()
            measured = {**(timings or {}), "upload": round(sent - started, 3)}
            if "notice_to_snapshot" in measured:
                measured["notice_to_commit"] = round(measured["notice_to_snapshot"] + sent - (since or started), 3)
            facts = Facts(step, samples_seen, reason, pinned=pinned, loss=loss, eval_loss=eval_loss, timings=measured, origin=origin)
            return self._driver.run(self._protocol.seal(uploaded, facts), patience=AT_COMMIT, deadline=deadline, superseded=superseded)

    def retain(self, *, superseded: Callable[[], bool] = lambda: False) -> int:
        """Delete data that nobody can need any more: older than the last `keep_last` commits, or left behind by earlier attempts."""
        with self._operation():
            return self._driver.run(self._protocol.retain(self._keep_last), patience=AT_RETENTION, superseded=superseded)

    def view(self) -> LogView:
        """What is known of the log, as of the last operation. Never blocks."""
        return self._view

    @contextmanager
    def _operation(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (NoReadableCheckpoint, LogBlocked, LogNotUnderstood, LogOfAnotherJob) as error:
                # The steps know slots and relative keys only; people need to know where.
                raise type(error)(f"{self._store_name}: {error}", reason=error.reason) from None
            finally:
                self._view = view(self._protocol.log)


def _wall_clock() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
