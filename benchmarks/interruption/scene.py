"""A job on the local cluster whose machine is taken away at chosen steps, and what its status says of that afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from examples.demo import product
from examples.demo.kills import Kill, Kind
from examples.demo.kube import Kube
from examples.demo.run import remove, see_through
from localcloud.borrow import borrowed
from localcloud.home import Home

SPACING = {"Cold": 12, "Warm": 40}
"""Steps between two interruptions: the next attempt does useful work well before. Warm, the old one goes on for some of them."""


@dataclass(frozen=True)
class Taken:
    """One interruption: `at` is when the machine was taken away or notice was given (wall clock seconds), the rest is the job's ledger."""

    at: float
    begun: float
    points: Mapping[str, float]
    """Wall clock seconds by the names of `status.attempts[].interruption`; what never came to pass is missing."""
    steps_redone: int

    def between(self, first: str, then: str) -> float:
        """Seconds from one point to another, `notice` being when it was given; not below 0. Raises `KeyError` for one that is missing."""
        points = {"notice": self.at, **self.points}
        return max(0.0, points[then] - points[first])


@contextmanager
def local_cluster() -> Iterator[tuple[Home, Kube]]:
    """The local cluster with the product installed and the example's model and data in its bucket."""
    with borrowed(sys.stderr) as home:
        kube = Kube(home)
        product.install(home, kube)
        product.place_inputs(home, kube)
        yield home, kube


def interrupted(kind: Kind, times: int, handover: str = "Cold") -> list[Taken]:
    """The example job, interrupted so many times. Raises `JobFailed`."""
    name, spacing = f"bench-{kind}-{handover}".lower(), SPACING[handover]
    with local_cluster() as (home, kube):
        document = product.job(name, steps=spacing * (times + 1))
        document["spec"]["handover"] = handover
        if kind is Kind.NOTICE:
            # Else a periodic commit may have kept the newest step a moment before the notice, which then has nothing to commit.
            document["spec"]["checkpoint"]["interval"] = "1h"
        kills = tuple(Kill(spacing * (number + 1), kind, notice_seconds=120) for number in range(times))
        run = see_through(home, kube, document, kills)
        remove(kube, name)
    ledgers = {entry["epoch"]: entry.get("interruption") or {} for entry in run.job["status"]["attempts"]}
    return [_taken(interruption.at, ledgers[interruption.epoch]) for interruption in run.interruptions]


def _taken(at: float, ledger: Mapping[str, Any]) -> Taken:
    names = ("signal", "stepEnd", "snapshot", "durable", "gone", "placed", "started", "loaded", "firstStep")
    begun = float(ledger["at"])
    return Taken(at, begun, {n: begun + float(ledger[n]) for n in names if ledger.get(n) is not None}, int(ledger.get("stepsRedone") or 0))
