"""One background thread that commits snapshots while training goes on. Never two commits at once, never an old one after a newer one."""

from __future__ import annotations

import statistics
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from spottune_contract.failpoint import hit
from spottune_contract.records import Commit, CommitReason
from spottune_trainer.checkpoint.errors import CheckpointError, StorageUnavailable, Superseded
from spottune_trainer.checkpoint.log import CheckpointLog
from spottune_trainer.checkpoint.transfer import Files

SAFETY = 1.5
"""A save is expected to take this much longer than the typical one when time is short."""


@dataclass(frozen=True)
class Snapshot:
    """A state in host memory at a step boundary. Its files must not change while anybody holds them or a part of them.

    The saver lets go of a snapshot when it is committed, failed, superseded, withdrawn or replaced; a request that was given up on may
    hold its part longer.
    """

    files: Files = field(repr=False)
    step: int
    samples_seen: int
    reason: CommitReason
    loss: float | None = None
    eval_loss: float | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    pinned: bool = False


@dataclass(frozen=True)
class _Job:
    snapshot: Snapshot
    urgent: bool
    deadline: float | None
    submitted: float


def should_supersede(*, now: float, deadline: float | None, elapsed: float, typical: float) -> bool:
    """Whether an urgent save ends the upload under way (`elapsed` seconds old) instead of waiting for it. All in seconds.

    If both fit, both are done. If only the newer state fits, or the upload under way is overdue, the older one is given up. If not
    even the newer one fits, the upload under way is the better hope. Without a measurement the newer state is preferred.
    """
    if deadline is None:
        return False
    left, needed = deadline - now, typical * SAFETY
    if not typical or elapsed > needed:
        return True
    both_fit = max(typical - elapsed, 0.0) + needed <= left
    return not both_fit and needed <= left


class Saver:
    """Commits submitted snapshots in order of arrival; a newer one replaces one that still waits.

    A failed periodic save is no reason to stop training: `on_failure` hears of it and the next save tries again. A fatal error
    (anything but a transient one) ends the saver and is raised by `submit`, `poll` and `flush`.
    """

    def __init__(
        self,
        log: CheckpointLog,
        *,
        on_commit: Callable[[Commit], None] | None = None,
        on_failure: Callable[[CheckpointError], None] | None = None,
    ) -> None:
        self._log = log
        self._on_commit = on_commit or (lambda commit: None)
        self._on_failure = on_failure or (lambda error: None)
        self._changed = threading.Condition()
        self._waiting: _Job | None = None
        self._running: _Job | None = None
        self._running_since = 0.0
        self._closed = False
        self._fatal: BaseException | None = None
        self._failure: CheckpointError | None = None
        self._last_commit: Commit | None = None
        self._durations: deque[float] = deque(maxlen=5)
        self._thread = threading.Thread(target=self._work, name="spottune-saver", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """A snapshot waits or is being committed."""
        return self._running is not None or self._waiting is not None

    @property
    def last_commit(self) -> Commit | None:
        """Newest COMMIT of this process."""
        return self._last_commit

    @property
    def typical_seconds(self) -> float:
        """Median time of the latest saves from start to durable; 0.0 if there was none."""
        return statistics.median(self._durations) if self._durations else 0.0

    def poll(self) -> None:
        """Raise the error that ended the saver, if one did."""
        if self._fatal is not None:
            raise self._fatal

    def submit(self, snapshot: Snapshot, *, urgent: bool = False, deadline: float | None = None) -> None:
        """Take a snapshot over and return at once. `deadline` (monotonic) is when it is worthless; `urgent` may end an older upload."""
        self.poll()
        hit("T3")
        with self._changed:
            assert not self._closed, "the saver is closed"
            self._waiting = _Job(snapshot, urgent, deadline, time.monotonic())
            self._changed.notify_all()

    def withdraw(self, *, urgent: bool) -> bool:
        """Let go of a snapshot that still waits, in favour of one that is about to be submitted; whether there was one.

        An urgent one gives way only to another urgent one.
        """
        with self._changed:
            if self._waiting is None or (self._waiting.urgent and not urgent):
                return False
            self._waiting = None
            self._changed.notify_all()
            return True

    def flush(self, deadline: float | None = None) -> Commit | None:
        """Wait until everything submitted is durable; the newest COMMIT of this process. `deadline` is monotonic.

        Raises the error of the last save if it failed, the fatal error if there is one, `StorageUnavailable` at the deadline.
        """
        with self._changed:
            done = self._changed.wait_for(
                lambda: not self.busy or self._fatal is not None, None if deadline is None else max(0.0, deadline - time.monotonic())
            )
            self.poll()
            if not done:
                raise StorageUnavailable(
                    "the checkpoint was not durable at the deadline; the last commit before it stands", reason="CheckpointTooLate"
                )
            if self._failure is not None:
                raise self._failure
            return self._last_commit

    def close(self) -> None:
        """Take nothing more; what runs is left to end with the process."""
        with self._changed:
            self._closed = True
            self._waiting = None
            self._changed.notify_all()

    # --- the thread -----------------------------------------------------------------------------------------------------

    # The job under way is in `_running` alone, never in a variable of a frame that waits or that an error remembers: its memory is used
    # again as soon as nobody holds it.

    def _work(self) -> None:
        while self._next():
            try:
                self._save_and_sweep()
            except Superseded:
                self._finish(None)
            except CheckpointError as error:
                _forget_variables(error)
                self._finish(error)
                if self._fatal is not None:
                    return
                self._on_failure(error)
            except BaseException as error:
                # A defect of ours, or a failpoint: the loop must hear of it, silence would look like slow storage.
                with self._changed:
                    self._fatal = error
                    self._running = None
                    self._changed.notify_all()
                return

    def _save_and_sweep(self) -> None:
        urgent = self._save()
        self._finish(None)
        # Thrift comes after durability and never when time is short.
        if not urgent and not self._urgent_waits():
            self._retain()

    def _next(self) -> bool:
        """Begin with the snapshot that waits, as soon as there is one. False: closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._closed)
            if self._closed:
                return False
            self._running, self._waiting = self._waiting, None
            self._running_since = time.monotonic()
            return True

    def _save(self) -> bool:
        """Commit the job under way; whether it was urgent."""
        job = self._running
        assert job is not None
        snapshot, urgent = job.snapshot, job.urgent
        commit = self._log.commit(
            snapshot.files,
            step=snapshot.step,
            samples_seen=snapshot.samples_seen,
            reason=snapshot.reason,
            loss=snapshot.loss,
            eval_loss=snapshot.eval_loss,
            timings=snapshot.timings,
            pinned=snapshot.pinned,
            deadline=job.deadline,
            since=job.submitted,
            superseded=lambda: not urgent and self._superseded(),
        )
        self._durations.append(time.monotonic() - self._running_since)
        self._last_commit = commit
        self._on_commit(commit)
        return urgent

    def _superseded(self) -> bool:
        waiting, now = self._waiting, time.monotonic()
        if waiting is None or not waiting.urgent:
            return False
        return should_supersede(now=now, deadline=waiting.deadline, elapsed=now - self._running_since, typical=self.typical_seconds)

    def _urgent_waits(self) -> bool:
        waiting = self._waiting
        return waiting is not None and waiting.urgent

    def _retain(self) -> None:
        # Nothing is lost by a sweep that fails: the next commit tries again.
        with suppress(Superseded, CheckpointError):
            self._log.retain(superseded=self._urgent_waits)

    def _finish(self, error: CheckpointError | None) -> None:
        with self._changed:
            self._running = None
            self._failure = error
            # Storage that does not answer may come back; everything else stays as it is.
            if error is not None and not isinstance(error, StorageUnavailable):
                self._fatal = error
            self._changed.notify_all()


def _forget_variables(error: BaseException | None) -> None:
    """Let an error that is kept say where it came from, without keeping the data that were there."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
