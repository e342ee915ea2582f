"""One drill from the first look to the score card."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spottune_cli.drill import acts, price
from spottune_cli.drill.card import Before, Card, Kind, Seen, card, waited_for
from spottune_cli.drill.cluster import Cluster
from spottune_cli.errors import Exit, Refusal
from spottune_cli.jobs import Connection, Jobs
from spottune_cli.view import TERMINAL_PHASES, failure, phase


@dataclass(frozen=True)
class Order:
    """What was asked for on the command line. Times are seconds."""

    kind: Kind
    notice_seconds: float = 120.0
    seconds: float = 90.0
    """How long a cut or a pause lasts."""
    timeout: float = 900.0
    price_per_hour: float | None = None
    fis_role: str = ""


class Drill:
    """A drill of one job."""

    def __init__(self, job: str, namespace: str, connection: Connection, order: Order, say: Callable[[str], None]) -> None:
        self._name, self._order, self._say = job, order, say
        self._jobs, self._cluster = Jobs(namespace, connection), Cluster(namespace, connection)

    def look(self) -> Before:
        """The job as it is. Raises `Refusal` if it does no useful work now: then there is nothing to interrupt."""
        job = self._jobs.get(self._name)
        status = job.get("status") or {}
        told = self._cluster.progress(status["pod"]) if phase(job) == "Running" and status.get("pod") else None
        pod = self._cluster.pod(status["pod"]) if told is not None else None
        if told is None or pod is None or not told.first_step_at or told.epoch != status.get("attempt"):
            why = "it is " + phase(job) if phase(job) != "Running" else "its trainer has not finished a step yet, or cannot be reached"
            raise Refusal(Exit.USAGE, f"job {self._name!r} does no useful work now ({why}): wait until it does, or drill another one")
        place = {name: str(status.get(name, "")) for name in ("pod", "node", "pool")}
        uid = str(pod["metadata"]["uid"])
        return Before(self._name, self._jobs.namespace, str(job["metadata"]["uid"]), told.epoch, pod_uid=uid, step=told.step, **place)

    def run(self) -> Card:
        """Do it and see it through. Raises `Refusal`; Ctrl-C says in which state things are left."""
        job, before = self._jobs.get(self._name), self.look()
        scene = acts.Scene(self._cluster, before, job, self._say, time.monotonic() + self._order.timeout)
        # Asked for before anything happens: the node may be gone afterwards.
        worth = price.of_machine(self._order.price_per_hour, before.pool)
        try:
            self._say(
                f"step {before.step} of {before.namespace}/{before.job}, attempt {before.epoch} on {before.node}: {self._order.kind} begins"
            )
            seen = self._act(scene)
            last = job if seen.stayed else self._see_through(scene)
        except KeyboardInterrupt:
            self._say(f"interrupted: {scene.left}")
            raise
        if seen.stayed:
            last = self._jobs.get(self._name)
        return card(self._order.kind, before, last.get("status") or {}, seen, worth)

    def _act(self, scene: acts.Scene) -> Seen:
        order = self._order
        if order.fis_role:
            from spottune_cli.drill import fis

            return fis.act(scene, order.kind, order.fis_role)
        return {
            Kind.NOTICE: lambda: acts.notice(scene, order.notice_seconds),
            Kind.NO_NOTICE: lambda: acts.no_notice(scene),
            Kind.REBALANCE: lambda: acts.rebalance(scene),
            Kind.CUT: lambda: acts.cut(scene, order.seconds),
            Kind.PAUSE: lambda: acts.pause(scene, order.seconds),
        }[order.kind]()

    def _see_through(self, scene: acts.Scene) -> Mapping[str, Any]:
        """Until useful work is done again."""
        last: dict[str, Any] = {}

        def waiting() -> str:
            last.update(self._jobs.get(self._name))
            what = waited_for(scene.before, last.get("status") or {})
            if what and phase(last) in TERMINAL_PHASES:
                why = "" if phase(last) == "Succeeded" else f": {failure(last)}"
                raise Refusal(Exit.VIOLATION, f"the job is {phase(last)} before useful work was done again{why}")
            return what

        while what := waiting():
            scene.until(lambda what=what: waiting() != what, what)  # type: ignore[misc]
        return last
