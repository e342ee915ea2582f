"""`python -m examples.demo.campaign`: many interrupted runs against one uninterrupted twin.

Every run has the same spec, so one twin serves them all. When and in which way each is interrupted follows from its seed, which is printed.
Exits non-zero unless every run is equal to the twin to the bit and no step that was finished before a notice had to be done again.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from examples.demo import kills, product, proof
from examples.demo.__main__ import JOB, TWIN, root_of
from examples.demo.kills import Kill, Kind
from examples.demo.kube import CommandFailed, Kube
from examples.demo.run import JobFailed, describe, remove, see_through
from examples.demo.screen import complain, console, say, stage
from examples.tiny_model import write_model, write_rows
from examples.upload import place
from localcloud.borrow import up
from localcloud.home import Home
from localcloud.karpenter import Karpenter
from localcloud.objectstore import ObjectStore
from localcloud.process import ServiceError

KINDS: dict[str, Sequence[Kind]] = {"usual": (Kind.NOTICE, Kind.POWER_OFF), "all": tuple(Kind)}
LIMIT_SECONDS = 3600.0
_FURTHER_TYPE = "m5.xlarge"


@dataclass(frozen=True)
class Campaign:
    """What is done to how many runs."""

    runs: int
    steps: int
    kills: int
    kinds: Sequence[Kind]
    seed: int
    at_once: int
    tiny: bool
    controller_kills: bool

    def planned(self, number: int) -> tuple[Kill, ...]:
        # A trainer that is cut off trains on meanwhile: steps are left for the interruptions that come after it.
        among = self.steps * 2 // 5 if Kind.CUT in self.kinds else self.steps
        return kills.at_random(among, self.seed + number, self.kills, self.kinds)

    def job(self, name: str) -> dict[str, Any]:
        document = product.job(name, self.steps)
        return tiny(document) if self.tiny else document


@dataclass(frozen=True)
class Outcome:
    """One run."""

    planned: tuple[Kill, ...]
    costs: tuple[proof.Cost, ...] = ()
    seconds: float = 0.0
    equal: bool = False

    @property
    def lost(self) -> int:
        """Finished steps that were done again although the trainer had been told."""
        return sum(cost.redone for kill, cost in zip(self.planned, self.costs, strict=False) if kill.kind.told)

    @property
    def good(self) -> bool:
        return self.equal and self.lost == 0


def tiny(document: dict[str, Any]) -> dict[str, Any]:
    """The job with a random model of two layers, whose steps take a fraction of a second: most of its time it is being interrupted."""
    spec = document["spec"]
    spec["model"]["source"] = f"s3://{product.BUCKET}/models/tiny"
    spec["dataset"] = {"source": f"s3://{product.BUCKET}/data/tiny.jsonl", "format": "messages", "maxLength": 96}
    spec["training"] |= {"globalBatchSize": 32, "microBatchSize": 2, "cpuThreads": 1}
    del spec["training"]["evalSteps"]
    spec["checkpoint"]["interval"] = "20s"
    spec["capacity"]["instanceTypes"].append(_FURTHER_TYPE)
    # A machine for each: who shares one is interrupted with its neighbour, and not as its own seed says.
    spec["podOverrides"]["resources"]["requests"]["cpu"] = "1500m"
    return document


def place_tiny(home: Home, kube: Kube) -> None:
    """The tiny model and its conversations into the bucket, and three more pools: Karpenter leaves one alone for 180 s after each notice."""
    pools = yaml.safe_load((product.ROOT / "examples" / "karpenter" / "spot.yaml").read_text())
    pools["metadata"]["name"] = "spottune-spot-further"
    for requirement in pools["spec"]["template"]["spec"]["requirements"]:
        if requirement["key"] == "node.kubernetes.io/instance-type":
            requirement["values"] = [_FURTHER_TYPE]
    kube.apply(pools)
    with tempfile.TemporaryDirectory() as folder:
        model, rows = write_model(Path(folder, "model"), hidden=64), write_rows(Path(folder, "rows.jsonl"), count=200)
        files = {f"models/tiny/{path.name}": path for path in sorted(model.iterdir())} | {"data/tiny.jsonl": rows}
        store = ObjectStore.of_cluster(home)
        place(store.endpoint, store.access_key, store.secret_key, product.BUCKET, files)


@contextmanager
def controllers_killed(home: Home, kube: Kube, seed: int) -> Iterator[list[float]]:
    """Kills operator and Karpenter without grace every now and then; yields the pauses in between, in seconds.

    Karpenter forgets by it which pools it had left alone for three minutes, without which twelve pools would not do for the interruptions.
    """
    pauses: list[float] = []
    over, dice = threading.Event(), random.Random(seed)  # noqa: S311  (moments to kill at)
    label = "app.kubernetes.io/component=operator"
    karpenter = Karpenter.of_cluster(home).service

    def kill() -> None:
        while not over.wait(pause := dice.uniform(30, 90)):
            pauses.append(pause)
            try:
                kube.kubectl("delete", "pod", "-n", product.SYSTEM_NAMESPACE, "-l", label, "--grace-period=0", "--force")
                if (process := karpenter.running()) is not None:
                    process.signal(signal.SIGKILL)
                    while process.alive():
                        time.sleep(0.05)
                karpenter.start()
            except (CommandFailed, ServiceError) as error:
                complain(error)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield pauses
    finally:
        over.set()
        thread.join()


def one_run(home: Home, campaign: Campaign, number: int, expected: Mapping[str, str]) -> Outcome:
    """See one run through; a failure is printed and returned as a run that is not equal."""
    kube, planned = Kube(home), campaign.planned(number)
    name = JOB if campaign.at_once == 1 else f"{JOB}-{campaign.seed + number}"
    try:
        run = see_through(
            home, kube, campaign.job(name), planned, LIMIT_SECONDS, alone=campaign.at_once == 1, every_kill=Kind.CUT not in campaign.kinds
        )
    except JobFailed as error:
        complain(error)
        console.print(describe(kube, error.job), markup=False)
        return Outcome(planned)
    log = proof.read_log(product.storage(home), root_of(run))
    costs = tuple(proof.costs(log, run.interruptions, run.first_step_at))
    outcome = Outcome(planned, costs, run.seconds, dict(proof.final_digests(log)) == expected)
    say(f"seed {campaign.seed + number}: {'equal to the bit' if outcome.equal else '[bold red]NOT EQUAL[/bold red]'}, {run.seconds:.0f} s")
    if outcome.good and campaign.at_once > 1:
        remove(kube, name)
    return outcome


def carry_out(campaign: Campaign) -> list[Outcome]:
    """All runs."""
    with stage("local cluster"):
        home = up()
    kube = Kube(home)
    with stage("SpotTune and its inputs"):
        product.install(home, kube)
        product.place_inputs(home, kube)
        if campaign.tiny:
            place_tiny(home, kube)
    with stage("the uninterrupted twin"):
        twin = see_through(home, kube, campaign.job(TWIN))
    expected = dict(proof.final_digests(proof.read_log(product.storage(home), root_of(twin))))
    with stage(f"{campaign.runs} runs, {campaign.at_once} at once"), ThreadPoolExecutor(campaign.at_once) as pool:
        numbers = range(campaign.runs)
        if not campaign.controller_kills:
            return list(pool.map(lambda number: one_run(home, campaign, number, expected), numbers))
        with controllers_killed(home, kube, campaign.seed) as pauses:
            outcomes = list(pool.map(lambda number: one_run(home, campaign, number, expected), numbers))
        say(f"operator and Karpenter were killed {len(pauses)} times meanwhile")
        return outcomes


def show(campaign: Campaign, outcomes: Sequence[Outcome]) -> None:
    table = Table(title=f"{campaign.runs} runs of {campaign.steps} steps, {campaign.kills} interruptions each", title_justify="left")
    for column in ("seed", "interruptions", "steps redone", "notice → commit", "seconds", "equal to the bit"):
        table.add_column(column)
    for number, outcome in enumerate(outcomes):
        told = ", ".join(f"{kill.kind} at {cost.step_reached}" for kill, cost in zip(outcome.planned, outcome.costs, strict=False))
        commits = ", ".join(f"{cost.notice_to_commit:.1f} s" for cost in outcome.costs if cost.notice_to_commit is not None) or "–"
        redone = ", ".join(str(cost.redone) for cost in outcome.costs)
        verdict = "yes" if outcome.equal else "[bold red]NO[/bold red]"
        table.add_row(str(campaign.seed + number), told, redone, commits, f"{outcome.seconds:.0f}", verdict)
    console.print(table)
    by_kind = Table(title="By kind", title_justify="left")
    for column in ("kind", "interruptions", "steps redone"):
        by_kind.add_column(column)
    counted, redone_by = Counter[str](), Counter[str]()
    for outcome in outcomes:
        for cost in outcome.costs:
            counted[cost.kind] += 1
            redone_by[cost.kind] += cost.redone
    for kind in campaign.kinds:
        by_kind.add_row(str(kind), str(counted[kind]), str(redone_by[kind]))
    console.print(by_kind)
    say(
        f"{sum(counted.values())} interruptions; {sum(o.equal for o in outcomes)} of {campaign.runs} runs equal to the bit; "
        f"{sum(o.lost for o in outcomes)} finished steps lost with notice"
    )


def parse(arguments: Sequence[str] | None = None) -> Campaign:
    parser = argparse.ArgumentParser(prog="python -m examples.demo.campaign", description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps of each run (default %(default)s)")
    parser.add_argument("--kills", type=int, default=2, help="interruptions of each run (default %(default)s)")
    parser.add_argument("--kinds", choices=sorted(KINDS), default="usual", help="notice and power-off, or all kinds (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the first run's seed; the next ones count up (default %(default)s)")
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side, each on machines of its own (default %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="train a random model of two layers instead of SmolLM2-135M")
    parser.add_argument("--controller-kills", action="store_true", help="kill operator and Karpenter, too, every 30 to 90 s")
    options = vars(parser.parse_args(arguments))
    return Campaign(**options | {"kinds": KINDS[options["kinds"]]})


def main() -> int:
    campaign = parse()
    try:
        outcomes = carry_out(campaign)
    except (CommandFailed, RuntimeError, ValueError) as error:
        complain(error)
        return 1
    show(campaign, outcomes)
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
