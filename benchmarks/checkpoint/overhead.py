"""What a checkpoint every 30 s takes from the training of the example job: pairs of equal work with and without one."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkpoint.example import EXAMPLE, claimed, make_run, model, samples, spec
from benchmarks.checkpoint.upload import sink_server
from benchmarks.report import Figure, interval, paired
from benchmarks.servers import job_store, seaweedfs
from spottune_trainer.checkpoint import Saver, Snapshot
from spottune_trainer.checkpoint.store import Store
from spottune_trainer.loop import Run, optimizer_step

EVERY_SECONDS = 30.0
STEPS = 2
"""Of one measurement. The difference of a pair is what one checkpoint costs; the longer a measurement, the more of it is noise."""


class _Quiet:
    def boundary(self, run: Run) -> bool:
        return False

    def micro_batch(self, run: Run, done: int, of: int, seconds: float) -> bool:
        return False

    def step_finished(self, run: Run, seconds: float, tokens: int) -> None:
        pass

    def evaluating(self, run: Run) -> bool:
        return False

    def evaluated(self, run: Run, loss: float) -> None:
        pass


@dataclass
class _Job:
    run: Run
    saver: Saver
    cpu: dict[bool, list[float]]

    def seconds(self, checkpoint: bool) -> float:
        """Wall time of the steps; with a checkpoint also until it is durable, though in a job nobody waits for that."""
        started, cpu = time.monotonic(), time.process_time()
        if checkpoint:
            self.saver.submit(Snapshot(self.run.save(), self.run.step, self.run.samples_seen, "interval"))
        for _ in range(STEPS):
            optimizer_step(self.run, _Quiet())
        if checkpoint:
            self.saver.flush()
        self.cpu[checkpoint].append(time.process_time() - cpu)
        return time.monotonic() - started


def measure(quick: bool) -> Sequence[Figure]:
    """ABBA pairs of two optimizer steps of 6 × 96 tokens. The goal is the trainer's: in life the store is not on its cores."""
    chosen = spec(EXAMPLE)
    run = make_run(chosen, model(chosen), samples())
    with sink_server() as server, tempfile.TemporaryDirectory() as folder:
        figures = _compare(run, server.store(Path(folder)), 2 if quick else 14, "", goal=1.0)
    with seaweedfs() as server:
        return [*figures, *_compare(run, job_store(server), 2 if quick else 6, ", SeaweedFS on the same cores", goal=None)]


def _compare(run: Run, store: Store, count: int, where: str, goal: float | None) -> list[Figure]:
    job = _Job(run, Saver(claimed(store)), {True: [], False: []})
    job.seconds(True)
    job.cpu[True].clear()
    pairs = paired(lambda: job.seconds(True), lambda: job.seconds(False), count)
    job.saver.close()
    costs = [a - b for a, b in pairs]
    cpu = [a - b for a, b in zip(job.cpu[True], job.cpu[False], strict=True)]
    share, (low, high) = statistics.median(costs) / EVERY_SECONDS, interval(costs)
    cpu_low, cpu_high = interval(cpu)
    alone = statistics.median(b for _, b in pairs)
    return [
        Figure(
            f"overhead of a checkpoint every 30 s{where}",
            100 * share,
            "%",
            goal=goal,
            detail=f"{len(pairs)} pairs; quartiles {100 * low / EVERY_SECONDS:.2f} to {100 * high / EVERY_SECONDS:.2f} %; "
            f"one checkpoint costs {1000 * statistics.median(costs):.0f} ms of {alone:.1f} s of training",
        ),
        Figure(
            f"trainer CPU of a checkpoint{where}",
            statistics.median(cpu),
            "s",
            detail=f"quartiles {cpu_low:.2f} to {cpu_high:.2f} s; without one the {STEPS} steps take {statistics.median(job.cpu[False]):.1f} s",
        ),
    ]
