"""One operator process in the simulation: the product's own executor, its memory, and the call that it waits for."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from spottune_operator.cluster import ClusterError
from spottune_operator.executor import Clocks, Executor
from spottune_operator.manifests import TrainerDefaults
from spottune_operator.metrics import Metrics
from spottune_operator.observe import classify
from spottune_operator.planner.types import Notice, Settings
from spottune_operator.view import JobKey, View
from tests.simulation.cluster_model import Call, Json, ModelCluster, ModelTrainers, Outcome, World, carry_out

JOB = "python-help"
KEY = JobKey("demo", JOB)
SETTINGS = Settings()
DEFAULTS = TrainerDefaults(cluster="sim", image="trainer")
NODES = ("n1", "n2", "n3")
POOLS = ("t1/z1/spot", "t2/z1/spot")
TOTAL_STEPS = 24
SPEC: Json = {
    "model": {"source": "/model"},
    "dataset": {"source": "/data.jsonl"},
    "training": {"maxSteps": TOTAL_STEPS},
    "checkpoint": {"storage": "s3://bucket/prefix"},
    "capacity": {"instanceTypes": ["t1", "t2"], "zones": ["z1"]},
}


class Board:
    """Notices as an operator holds them."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    def about(self, nodes: object) -> tuple[Notice, ...]:
        return tuple(self.notices)


@dataclass
class Operator:
    """One operator process: its memory, and the look that it is in the middle of."""

    world: World
    view: View = field(default_factory=View)
    looking: Coroutine[Any, Any, float | None] | None = None
    call: Call | None = None
    again: float | None = None
    live_before: frozenset[str] = frozenset()
    """Pods that might have trained when this look listed them."""
    job_was_there: bool | None = None
    """And not under deletion, when this look began by reading it."""

    def __post_init__(self) -> None:
        self.view.notices = Board()  # type: ignore[assignment]
        self.executor = Executor(
            ModelCluster(self.world),
            ModelTrainers(self.world),  # type: ignore[arg-type]
            self.view,
            defaults=DEFAULTS,
            settings=SETTINGS,
            metrics=Metrics(),
            clocks=Clocks(wall=lambda: self.world.now, monotonic=lambda: self.world.now),
        )

    def begin(self) -> None:
        self.view.nodes = dict(self.world.nodes)
        self.job_was_there = None
        self.looking = self.executor.look(KEY)
        self._resume(lambda look: look.send(None))

    def answer(self, outcome: Outcome) -> None:
        """Carry out the call that this operator waits for."""
        call = self.call
        assert call is not None
        if call.name == "get job" and self.job_was_there is None:
            self.job_was_there = "deletionTimestamp" not in self.world.jobs.get(JOB, {"metadata": {"deletionTimestamp": ""}})["metadata"]
        if call.name == "list pods":
            self.live_before = frozenset(uid for uid, live in self.liveness() if live)
        try:
            result = carry_out(call, outcome)
        except ClusterError as error:
            failure = error
            self._resume(lambda look: look.throw(failure))
        else:
            self._resume(lambda look: look.send(result))

    def liveness(self) -> list[tuple[str, bool]]:
        pods = self.world.pods.values()
        nodes = self.world.nodes
        return [(p["metadata"]["uid"], classify(p, nodes.get(p["spec"].get("nodeName", "")), self.world.now, SETTINGS).live) for p in pods]

    def run(self) -> None:
        """One look from its beginning to its end, without faults."""
        if self.looking is None:
            self.begin()
        while self.looking is not None:
            self.answer("answered")

    def die(self) -> None:
        """SIGKILL: whatever the code would still like to call is not carried out."""
        while self.looking is not None:
            with contextlib.suppress(RuntimeError):
                self.looking.close()
                self.looking = None

    def _resume(self, step: Any) -> None:
        try:
            self.call = step(self.looking)
        except StopIteration as stop:
            self.looking, self.call, self.again = None, None, stop.value
        except ClusterError:
            # The work queue would come back later with a backoff.
            self.looking, self.call, self.again = None, None, 1.0
