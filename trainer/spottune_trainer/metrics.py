"""Prometheus metrics, read from the board at scrape time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spottune_contract.progress import Progress, TrainerPhase

_GAUGES: tuple[tuple[str, str, Callable[[Progress], float | None]], ...] = (
    ("step", "Finished optimizer steps", lambda p: p.step),
    ("total_steps", "Optimizer steps of the whole run", lambda p: p.total_steps),
    ("samples_seen", "Samples trained on", lambda p: p.samples_seen),
    ("loss", "Mean cross entropy per target token of the last step, nats", lambda p: p.loss),
    ("eval_loss", "The same over the evaluation data", lambda p: p.eval_loss),
    ("learning_rate", "Learning rate of the last step", lambda p: p.learning_rate),
    ("tokens_per_second", "Input tokens per second of the last step", lambda p: p.tokens_per_second),
    ("step_seconds", "Median of the last optimizer steps", lambda p: p.step_seconds),
    ("checkpoint_seconds", "Expected seconds from a notice to a durable commit", lambda p: p.checkpoint_seconds),
    ("first_step_timestamp_seconds", "When this process finished its first step; 0 if not yet", lambda p: p.first_step_at),
    ("notice_timestamp_seconds", "When the last notice came; 0 for none", lambda p: p.notice_at),
    ("resumed_from_step", "Step of the restored state; absent for a fresh start", lambda p: p.resumed_from_step),
    ("log_head_slot", "Highest slot of the checkpoint log", lambda p: p.log.head_slot if p.log else None),
    ("committed_step", "Step of the newest effective commit", lambda p: p.log.last_commit.step if p.log and p.log.last_commit else None),
)


class _Board(Collector):
    def __init__(self, progress: Callable[[], Progress]) -> None:
        self._progress = progress

    def collect(self) -> Iterable[Metric]:
        now = self._progress()
        for name, text, read in _GAUGES:
            value = read(now)
            if value is not None:
                yield GaugeMetricFamily(f"spottune_trainer_{name}", text, value=float(value))
        phase = GaugeMetricFamily("spottune_trainer_phase", "1 for the current phase", labels=["phase"])
        for one in TrainerPhase:
            phase.add_metric([one.value], float(one is now.phase))
        yield phase


def exposition(progress: Callable[[], Progress]) -> Callable[[], bytes]:
    """A function that renders the metrics in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Board(progress))
    return lambda: generate_latest(registry)
