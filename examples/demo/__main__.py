"""`python -m examples.demo`: bring everything up, train through spot kills, prove that the result is the same to the bit."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from examples.demo import kills, product, proof
from examples.demo.kube import CommandFailed, Kube
from examples.demo.run import JobFailed, Run, describe, see_through
from examples.demo.screen import complain, console, say, stage
from examples.prepare_data import prepare_data
from examples.prepare_model import prepare_model
from localcloud.borrow import up
from localcloud.home import Home
from spottune_contract.layout import S3Location, job_location

JOB, TWIN = "python-help", "python-help-twin"


def root_of(run: Run) -> S3Location:
    """Where the job's log is."""
    return job_location(run.job["spec"]["checkpoint"]["storage"], product.CLUSTER_NAME, product.NAMESPACE, run.uid)


def equality_table(first: dict[str, str], second: dict[str, str]) -> tuple[Table, bool]:
    """The proof: each compared file of both runs with its SHA-256."""
    table = Table(title="Interrupted run and uninterrupted twin", title_justify="left")
    for column in ("", "interrupted (SHA-256)", "twin (SHA-256)", "equal"):
        table.add_column(column)
    same = True
    for name, title in proof.COMPARED.items():
        equal = first[name] == second[name]
        same = same and equal
        table.add_row(title, first[name][:32] + "…", second[name][:32] + "…", "[green]yes[/green]" if equal else "[bold red]NO[/bold red]")
    return table, same


def cost_table(costs: list[proof.Cost]) -> Table:
    """What each interruption cost."""
    table = Table(title="Interruptions", title_justify="left")
    for column in ("kind", "at step", "resumed from", "steps redone", "notice → commit", "→ next useful step"):
        table.add_column(column)
    for cost in costs:
        seconds = ["–" if value is None else f"{value:.1f} s" for value in (cost.notice_to_commit, cost.to_next_step)]
        table.add_row(cost.kind, str(cost.step_reached), str(cost.resumed_from), str(cost.redone), *seconds)
    return table


def worth(home: Home, run: Run) -> dict[str, Any]:
    """Evaluation loss and one answer, of the base model and of the adapter that the job exported."""
    s3 = product.storage(home)
    output = S3Location.parse(run.job["status"]["output"])
    with tempfile.TemporaryDirectory() as folder:
        for item in s3.list_objects_v2(Bucket=output.bucket, Prefix=output.key(""))["Contents"]:
            s3.download_file(output.bucket, item["Key"], str(Path(folder) / Path(item["Key"]).name))
        command = [sys.executable, "-m", "examples.demo.answers", str(prepare_model()), folder, str(prepare_data()[1])]
        done = subprocess.run(command, cwd=product.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise CommandFailed(f"the adapter could not be tried: {done.stderr.strip().splitlines()[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def report(home: Home, interrupted: Run, twin: Run) -> bool:
    """Print the proof; True if everything is equal."""
    s3 = product.storage(home)
    logs = [proof.read_log(s3, root_of(run)) for run in (interrupted, twin)]
    equality, same = equality_table(*(dict(proof.final_digests(log)) for log in logs))
    console.print(cost_table(proof.costs(logs[0], interrupted.interruptions, interrupted.first_step_at)))
    console.print(equality)
    say(f"interrupted run {interrupted.seconds:.0f} s, twin {twin.seconds:.0f} s")
    return same


def show_worth(result: dict[str, Any]) -> None:
    table = Table(title=f"“{result['question']}”", title_justify="left")
    for column in ("", "evaluation loss", "answer"):
        table.add_column(column)
    for name in ("base", "adapter"):
        table.add_row(name, f"{result[name]['loss']:.4f}", result[name]["answer"])
    console.print(table)


def next_steps() -> None:
    console.print(
        "\nThe cluster stays up. Try next:\n"
        '  eval "$(.venv/bin/python -m localcloud env)"   # KUBECONFIG, kubectl and helm\n'
        f"  kubectl describe ftj {JOB} -n {product.NAMESPACE}\n"
        "  .venv/bin/python -m localcloud node list\n"
        "`make down` removes every process, mount, namespace and cgroup of it."
    )


def demo(options: argparse.Namespace) -> int:
    with stage("local cluster"):
        home = up()
    kube = Kube(home)
    with stage("SpotTune: CRD, operator, node agent (Helm)"):
        product.install(home, kube)
    with stage("model and data into the bucket"):
        product.place_inputs(home, kube)
    job, twin_job = (product.job(name, options.steps) for name in (JOB, TWIN))
    steps = job["spec"]["training"]["maxSteps"]
    planned = kills.usual(steps) if options.seed is None else kills.at_random(steps, options.seed)
    try:
        with stage(f"fine-tuning {JOB} through {len(planned)} interruptions"):
            interrupted = see_through(home, kube, job, planned)
        with stage("the uninterrupted twin"):
            twin = see_through(home, kube, twin_job)
    except JobFailed as error:
        complain(error)
        console.print(describe(kube, error.job), markup=False)
        return 1
    same = report(home, interrupted, twin)
    if not options.no_answers:
        with stage("what the adapter is good for"):
            result = worth(home, interrupted)
        show_worth(result)
    if not same:
        say("[bold red]NOT EQUAL: the promise is broken; please report it with both jobs' logs[/bold red]")
        return 1
    say("[bold green]equal to the bit[/bold green]")
    next_steps()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--seed", type=int, help="kill at random moments drawn from this seed instead of at one and two thirds")
    parser.add_argument("--steps", type=int, help="optimizer steps of the job (default: what its manifest says)")
    parser.add_argument("--no-answers", action="store_true", help="do not compare base model and adapter at the end")
    options = parser.parse_args()
    try:
        return demo(options)
    except (CommandFailed, RuntimeError) as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
