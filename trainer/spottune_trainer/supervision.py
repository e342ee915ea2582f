"""What surrounds the loop: when the state is committed, when training stops, and what is shown meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from spottune_contract.progress import TrainerPhase
from spottune_contract.records import Commit, CommitReason
from spottune_trainer.board import Board
from spottune_trainer.checkpoint import CheckpointError, Saver, Snapshot
from spottune_trainer.handover import Relief
from spottune_trainer.logs import Log
from spottune_trainer.loop import Run
from spottune_trainer.preemption import Notice, Preemption, finish_step_first

FITS_NOTICE = "CheckpointFitsNotice"
SAY_EVERY_SECONDS = 10.0
UNKNOWN_COMMIT_SECONDS = 20.0
"""What a commit is taken to last as long as none was measured."""
_SHARE_OF_GRACE = 0.8


@dataclass(frozen=True)
class Policy:
    """When a commit is due without anybody asking: after `interval` seconds, and after every `every_steps` steps."""

    interval: float
    every_steps: int | None

    def due(self, *, since_last: float, step: int) -> bool:
        return since_last >= self.interval or (self.every_steps is not None and step % self.every_steps == 0)


class Supervision:
    """The `Watch` of the real trainer. Runs in the training thread; the saver has its own."""

    def __init__(
        self,
        *,
        saver: Saver,
        preemption: Preemption,
        board: Board,
        log: Log,
        policy: Policy,
        grace_seconds: float,
        relief: Relief | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._saver, self._preemption, self._board, self._log = saver, preemption, board, log
        self._policy, self._grace, self._monotonic = policy, grace_seconds, monotonic
        self._relief = relief
        """Of a warm hand-over; None: a stop is a stop."""
        self._safe_step = 0
        """Newest step that is committed or handed to the saver."""
        self._safe_at = monotonic()
        self._step_seconds = self._micro_seconds = self._snapshot_seconds = 0.0
        self._lost = False
        """The newest save did not get through; what it held is unsaved again."""
        self._said_at = -SAY_EVERY_SECONDS

    def restored(self, step: int) -> None:
        """The run is at a committed state."""
        self._safe_step, self._safe_at, self._lost = step, self._monotonic(), False

    # --- the Watch of the loop ----------------------------------------------------------------------------------------------

    def boundary(self, run: Run) -> bool:
        self._saver.poll()
        self._board.phase(TrainerPhase.TRAINING)
        if self._stops(self._step_seconds):
            return True
        notice = self._preemption.notice
        if notice is not None:
            self._answer(run, notice)
        elif self._unsaved(run) and (self._lost or self._policy.due(since_last=self._monotonic() - self._safe_at, step=run.step)):
            self.submit(run, "interval")
        return False

    def micro_batch(self, run: Run, done: int, of: int, seconds: float) -> bool:
        self._micro_seconds = max(seconds, 0.9 * self._micro_seconds)
        self._board.update(checkpoint_seconds=self._commit_seconds())
        left = (of - done) * self._micro_seconds
        if self._stops(left):
            return True
        notice = self._preemption.notice
        if notice is not None and self._unsaved(run):
            now = self._monotonic()
            if not finish_step_first(now=now, deadline=notice.deadline, step_seconds_left=left, commit_seconds=self._commit_seconds()):
                self._answer(run, notice)
        return False

    def step_finished(self, run: Run, seconds: float, tokens: int) -> None:
        self._step_seconds = max(seconds, 0.9 * self._step_seconds)
        self._board.step_took(seconds, tokens)
        self._board.update(
            step=run.step,
            samples_seen=run.samples_seen,
            loss=run.loss,
            learning_rate=run.history.learning_rate[-1],
            checkpoint_seconds=self._commit_seconds(),
        )
        self._warn_of_slow_commits()
        due = self._monotonic() - self._said_at >= SAY_EVERY_SECONDS
        if due:
            self._said_at = self._monotonic()
        say = self._log.info if due else self._log.debug
        say("step", step=run.step, of=run.total_steps, loss=run.loss, seconds=round(seconds, 3))

    def evaluating(self, run: Run) -> bool:
        self._saver.poll()
        self._board.phase(TrainerPhase.EVALUATING)
        return self._stops(self._step_seconds)

    def evaluated(self, run: Run, loss: float) -> None:
        self._board.update(eval_loss=loss)
        self._log.info("evaluated", step=run.step, eval_loss=loss)

    def _stops(self, seconds_left: float) -> bool:
        """Whether a stop takes effect now, `seconds_left` before the next finished step.

        Not while the successor of a warm hand-over is still on its way and there surely is time for that step: each finished step is
        committed at once then, as after any notice with a deadline.
        """
        if self._preemption.stop is None:
            return False
        until = self._preemption.last_moment(self._grace)
        if self._relief is None or until is None or self._relief.ready():
            return True
        # The state at the signal is committed in any case, at once; that will be the first measure.
        expected = self._commit_seconds() or UNKNOWN_COMMIT_SECONDS
        return not finish_step_first(now=self._monotonic(), deadline=until, step_seconds_left=seconds_left, commit_seconds=expected)

    # --- commits ------------------------------------------------------------------------------------------------------------

    def submit(self, run: Run, reason: CommitReason, *, urgent: bool = False, deadline: float | None = None) -> None:
        """Copy the state of the last finished step and hand it to the saver. Raises a pending fatal error of the saver.

        While one state is being uploaded and another waits, the newer takes the place of the waiting one. If there is no room even so,
        because requests that were given up still read old states, a periodic save is left for the next step boundary and an urgent one
        takes more memory.
        """
        if not run.snapshots.free and not self._saver.withdraw(urgent=urgent) and not urgent:
            return
        first = self._preemption.first_notice()
        started = self._monotonic()
        files = run.save()
        self._snapshot_seconds = self._monotonic() - started
        timings = {"snapshot": self._snapshot_seconds, "micro_step": self._micro_seconds}
        if first is not None and reason != "interval":
            timings["notice_to_snapshot"] = started - first.at
        self._safe_step, self._safe_at, self._lost = run.step, self._monotonic(), False
        self._saver.submit(
            Snapshot(
                files=files,
                step=run.step,
                samples_seen=run.samples_seen,
                reason=reason,
                loss=run.loss,
                eval_loss=run.eval_loss,
                timings=timings,
            ),
            urgent=urgent,
            deadline=deadline,
        )
        self._log.info("snapshot", step=run.step, reason=reason, bytes=sum(len(data) for data in files.values()))

    def stop(self, run: Run, notice: Notice) -> Commit | None:
        """Make the last finished step durable before the process ends. Returns this process' newest commit, None for none.

        Raises a `CheckpointError` if it cannot be made durable in the time that is left.
        """
        deadline = self._preemption.deadline(self._grace)
        self._board.phase(TrainerPhase.SAVING)
        if self._unsaved(run):
            self.submit(run, notice.reason, urgent=True, deadline=deadline)
        return self._saver.flush(deadline)

    def failed(self, error: CheckpointError) -> None:
        """A periodic save did not get through; training goes on (called in the saver's thread)."""
        self._lost = True
        self._board.warn(f"{error.reason}: a commit failed, training goes on: {error}")
        self._log.warning("commit failed", reason=error.reason, message=str(error))

    def committed(self, commit: Commit) -> None:
        """The saver has made a commit durable (called in its thread)."""
        self._board.unwarn("StorageUnavailable")
        self._log.info("committed", step=commit.step, slot=commit.slot, reason=commit.reason, timings=commit.timings)

    def _answer(self, run: Run, notice: Notice) -> None:
        self._board.update(notice_at=notice.at_wall, notice_source=notice.source)
        if self._unsaved(run):
            self.submit(run, notice.reason, urgent=True, deadline=notice.deadline)
        self._preemption.answered(notice)

    def _unsaved(self, run: Run) -> bool:
        return run.step > self._safe_step or (self._lost and run.step > 0)

    def _commit_seconds(self) -> float:
        """Expected seconds from a notice to a durable commit; 0 if no commit was measured yet."""
        upload = self._saver.typical_seconds
        return upload and self._micro_seconds + self._snapshot_seconds + upload

    def _warn_of_slow_commits(self) -> None:
        expected, limit = self._commit_seconds(), _SHARE_OF_GRACE * self._grace
        if expected > limit:
            self._board.warn(
                f"{FITS_NOTICE}: a commit takes about {expected:.0f} s, more than {limit:.0f} s of the grace period: a notice may be too short"
            )
        else:
            self._board.unwarn(FITS_NOTICE)
