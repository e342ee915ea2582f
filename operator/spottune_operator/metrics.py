"""Prometheus metrics of the operator, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from spottune_operator.api.v1alpha1 import InterruptionStatus
from spottune_operator.planner.ledger import POINTS


class Metrics:
    """All metrics, as attributes. Label values come from closed lists of ours, never from users."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.looks = self._counter("looks", "Passes over a job, by the rule that decided or the error that ended them", "outcome")
        self.look_seconds = Histogram("spottune_look_seconds", "Seconds of one pass over a job", registry=self.registry)
        self.status_writes = self._counter("status_writes", "Status writes", "outcome")
        self.actions = self._counter("actions", "Side effects on pods and trainers", "action", "outcome")
        self.events = self._counter("events", "Kubernetes events told about jobs", "outcome")
        self.queue_length = self._gauge("queue_length", "Jobs that wait for a look or are being looked at")
        self.set_aside = self._gauge("jobs_set_aside", "Jobs whose last pass threw; they are tried again after a backoff")
        self.jobs = self._gauge("jobs", "Jobs by phase", "phase")
        self.leader = self._gauge("leader", "1 while this operator holds the Lease and acts")
        self.resync_age = self._gauge("resync_age_seconds", "Seconds since the last complete live list of jobs, pods and nodes")
        self.watch_lag = self._gauge("watch_lag_seconds", "How long a change that a live list has shown has not come by watch")
        self.api_errors = self._counter("api_errors", "Failed calls to the API server", "error")
        self.notices = self._counter("notices", "Interruption notices received", "source", "kind")
        self.interruption_seconds = Histogram(
            "spottune_interruption_seconds",
            "From the beginning of an interruption to a point of its ledger (status.attempts[].interruption)",
            ["point"],
            buckets=(0.5, 1, 2, 5, 10, 20, 30, 60, 90, 120, 180, 300, 600, 1800, 3600),
            registry=self.registry,
        )
        self.steps_redone = Histogram(
            "spottune_interruption_steps_redone",
            "Finished steps that were done again after an interruption",
            buckets=(0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
            registry=self.registry,
        )
        self.notice_source_up = self._gauge("notice_source_up", "1 while the source of notices answers", "source")
        self.progress_polls = self._counter("progress_polls", "GET /progress of trainers", "outcome")

    def interruption_over(self, ledger: InterruptionStatus) -> None:
        """Useful work is done again."""
        for point in POINTS:
            seconds = getattr(ledger, point)
            if seconds is not None:
                self.interruption_seconds.labels(point).observe(seconds)
        if ledger.steps_redone is not None:
            self.steps_redone.observe(ledger.steps_redone)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"spottune_{name}", documentation, labels, registry=self.registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(f"spottune_{name}", documentation, labels, registry=self.registry)

    def exposition(self) -> bytes:
        """Text format for `/metrics`."""
        return generate_latest(self.registry)
