"""`python -m examples.demo.campaign`: many interrupted runs against one uninterrupted twin, killed at random moments.

Every run has the same spec, so one twin serves them all. Exits non-zero unless every run is equal to it to the bit.
"""

from __future__ import annotations

import argparse
import sys

from rich.table import Table

from examples.demo import kills, product, proof
from examples.demo.__main__ import JOB, TWIN, local_cluster, root_of
from examples.demo.kube import CommandFailed, Kube
from examples.demo.run import JobFailed, describe, see_through
from examples.demo.screen import complain, console, say, stage


def campaign(runs: int, steps: int, seed: int, kill_count: int) -> int:
    """Returns the number of runs that were not equal, or did not finish."""
    with stage("local cluster"):
        home = local_cluster()
    kube = Kube(home)
    with stage("SpotTune and its inputs"):
        product.install(home, kube)
        product.place_inputs(home, kube)
    s3 = product.storage(home)
    with stage("the uninterrupted twin"):
        twin = see_through(home, kube, product.job(TWIN, steps))
    expected = dict(proof.final_digests(proof.read_log(s3, root_of(twin))))
    table = Table(title=f"{runs} runs of {steps} steps, {kill_count} kills each", title_justify="left")
    for column in ("seed", "kills", "steps redone", "notice → commit", "seconds", "equal to the bit"):
        table.add_column(column)
    bad = 0
    for number in range(runs):
        planned = kills.at_random(steps, seed + number, kill_count)
        try:
            with stage(f"run {number + 1} of {runs}, seed {seed + number}"):
                run = see_through(home, kube, product.job(JOB, steps), planned)
        except JobFailed as error:
            complain(error)
            console.print(describe(kube, error.job), markup=False)
            bad += 1
            continue
        log = proof.read_log(s3, root_of(run))
        costs = proof.costs(log, run.interruptions, run.first_step_at)
        equal = dict(proof.final_digests(log)) == expected
        bad += not equal
        told = ", ".join(f"{kill.kind} at {cost.step_reached}" for kill, cost in zip(planned, costs, strict=True))
        commits = ", ".join(f"{cost.notice_to_commit:.1f} s" for cost in costs if cost.notice_to_commit is not None) or "–"
        redone = ", ".join(str(cost.redone) for cost in costs)
        table.add_row(str(seed + number), told, redone, commits, f"{run.seconds:.0f}", "yes" if equal else "[bold red]NO[/bold red]")
    console.print(table)
    say(f"{runs - bad} of {runs} runs equal to the bit")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo.campaign", description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps of each run (default %(default)s)")
    parser.add_argument("--kills", type=int, default=2, help="interruptions of each run (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the first run's seed; the next ones count up (default %(default)s)")
    options = parser.parse_args()
    try:
        return 1 if campaign(options.runs, options.steps, options.seed, options.kills) else 0
    except (CommandFailed, RuntimeError, ValueError) as error:
        complain(error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
