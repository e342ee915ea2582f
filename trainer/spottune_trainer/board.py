"""What the trainer says of itself right now, written by the training thread and read by the HTTP threads."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from spottune_contract.env import RunEnv
from spottune_contract.exitcodes import ExitCode
from spottune_contract.progress import LogView, Progress, Termination, TrainerPhase
from spottune_contract.version import CONTRACT_VERSION

HANG_SECONDS = 300.0
HANG_STEPS = 20
_WATCHED = (TrainerPhase.TRAINING, TrainerPhase.EVALUATING)


class Board:
    """A thread-safe `Progress` with a heartbeat. `clock` is wall time (shown), `monotonic` measures."""

    def __init__(self, env: RunEnv, writer: str, *, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._clock, self._monotonic = clock, monotonic
        self._log_view: Callable[[], LogView | None] = lambda: None
        self._durations: deque[float] = deque(maxlen=101)
        self._beat = monotonic()
        self._progress = Progress(
            contract=CONTRACT_VERSION,
            job_uid=env.job_uid,
            epoch=env.epoch,
            writer=writer,
            phase=TrainerPhase.STARTING,
            started_at=clock(),
        )

    def follow(self, log_view: Callable[[], LogView | None]) -> None:
        """From now on `log` is what this call returns."""
        self._log_view = log_view

    def update(self, **values: Any) -> None:
        """Set fields of `Progress`. Counts as a sign of life."""
        with self._lock:
            self._beat = self._monotonic()
            self._progress = self._progress.model_copy(update=values)

    def phase(self, phase: TrainerPhase) -> None:
        self.update(phase=phase)

    def warn(self, text: str) -> None:
        """Show a warning, once. At most 20 are kept."""
        with self._lock:
            if text not in self._progress.warnings:
                self._progress = self._progress.model_copy(update={"warnings": [*self._progress.warnings, text][-20:]})

    def unwarn(self, start: str) -> None:
        """Take back the warnings that begin with `start`."""
        with self._lock:
            kept = [text for text in self._progress.warnings if not text.startswith(start)]
            self._progress = self._progress.model_copy(update={"warnings": kept})

    def step_took(self, seconds: float, tokens: int) -> None:
        """Record a finished optimizer step of `seconds` over `tokens` input tokens."""
        with self._lock:
            self._durations.append(seconds)
            first = self._progress.first_step_at or self._clock()
            median = statistics.median(self._durations)
            self._progress = self._progress.model_copy(
                update={"step_seconds": median, "tokens_per_second": tokens / seconds if seconds else 0.0, "first_step_at": first}
            )

    def progress(self) -> Progress:
        view = self._log_view()
        with self._lock:
            return self._progress.model_copy(update={"log": view})

    def hung(self) -> str:
        """Empty if healthy; else for how long no step or evaluation batch was finished."""
        with self._lock:
            quiet = self._monotonic() - self._beat
            limit = max(HANG_SECONDS, HANG_STEPS * self._progress.step_seconds)
            if self._progress.phase in _WATCHED and quiet > limit:
                return f"no step finished for {quiet:.0f} s (limit {limit:.0f} s)"
        return ""

    def termination(self, code: ExitCode, reason: str, message: str, output: str = "") -> Termination:
        """The last word: the same facts as `progress`."""
        now = self.progress()
        shared = Termination.model_fields.keys() & Progress.model_fields.keys()
        return Termination(
            **{name: getattr(now, name) for name in shared}, exit_code=int(code), reason=reason, message=message, output=output
        )
