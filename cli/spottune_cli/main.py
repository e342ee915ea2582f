"""The `spottune` command; installed as `kubectl-finetune` it is also `kubectl finetune`."""

from __future__ import annotations

import json
import signal
import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from spottune_cli import view
from spottune_cli.drill.card import Kind
from spottune_cli.errors import Exit, Refusal, speaking
from spottune_contract.version import CONTRACT_VERSION

if TYPE_CHECKING:
    from spottune_cli.bucket import Bucket
    from spottune_cli.jobs import Jobs
    from spottune_cli.place import Access, Place

app = typer.Typer(
    help="Follow fine-tuning jobs on spot nodes, read their checkpoints, examine the cluster, and drill.",
    no_args_is_help=True,
    add_completion=False,
)
_console = Console(highlight=False)
_errors = Console(stderr=True)

NEWEST = 50
"""Records that `spottune log` shows unless told otherwise."""

Target = Annotated[
    str,
    typer.Argument(
        metavar="JOB|s3://…", help="A job, or its place s3://BUCKET/PREFIX/<cluster>/<namespace>/<uid>; then no cluster is needed."
    ),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the job.")]
Kubeconfig = Annotated[str | None, typer.Option(envvar="KUBECONFIG", help="Path of a kubeconfig; default: the usual places.")]
Endpoint = Annotated[
    str | None, typer.Option(help="Endpoint of the S3 store as seen from here; default: the job's, then AWS_ENDPOINT_URL_S3, then AWS.")
]
Region = Annotated[str | None, typer.Option(help="Region of the bucket; default: the job's, then that of your AWS configuration.")]
Credentials = Annotated[
    Path | None, typer.Option(help="Folder with the files accessKeyId and secretAccessKey; default: your AWS configuration.")
]
KeepLast = Annotated[
    int | None, typer.Option(min=2, help="So many newest commits must have their data; default: the job's keepLast, or 2 for s3://.")
]


class Output(StrEnum):
    """What `spottune log` and `spottune doctor` print."""

    TABLE = "table"
    JSON = "json"


@app.command()
def version() -> None:
    """Print the version of the contract between operator and trainer."""
    typer.echo(f"contract {CONTRACT_VERSION}")


@app.command()
def watch(job: str, namespace: Namespace = "default", kubeconfig: Kubeconfig = None) -> None:
    """Follow JOB until it ends: phase, step, loss, node, pool, attempts. Exits 1 unless it succeeds."""
    with speaking():
        from spottune_cli.jobs import Jobs

        last = follow(Jobs(namespace, kubeconfig), job)
        if last is None:
            raise Refusal(Exit.VIOLATION, "the job was deleted")
        if view.phase(last) != "Succeeded":
            raise Refusal(Exit.VIOLATION, f"{view.phase(last)}: {view.failure(last)}")


@app.command()
def log(
    target: Target,
    namespace: Namespace = "default",
    output: Annotated[Output, typer.Option("--output", "-o", help="For people or for programs.")] = Output.TABLE,
    limit: Annotated[int | None, typer.Option(min=1, help=f"Only so many of the newest records; table: {NEWEST}, json: all.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All records.")] = False,
    endpoint: Endpoint = None,
    region: Region = None,
    credentials_dir: Credentials = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print a job's checkpoint log: who committed what, when and why, what was resumed, rejected, fenced, damaged. Only reads."""
    with speaking():
        from spottune_cli.document import document
        from spottune_cli.history import understand
        from spottune_cli.timeline import WIDE, timeline

        place = _place(target, namespace, kubeconfig)
        contents = _bucket(place, endpoint, region, credentials_dir).contents("data/")
        if contents.beyond:
            _errors.print(f"spottune: slot {len(contents.log)} is missing: `spottune verify` tells more", highlight=False, soft_wrap=True)
        history = understand(contents.log, contents.keys, settled=contents.settled, keep_last=place.keep_last)
        if output is Output.JSON:
            typer.echo(json.dumps(document(history, str(place.location), None if everything else limit), indent=2))
            return
        width = _console.width if _console.is_terminal else max(_console.width, WIDE)
        for line in timeline(history, where=str(place.location), width=width, limit=None if everything else limit or NEWEST):
            _console.print(line, soft_wrap=True)


@app.command()
def verify(
    target: Target,
    namespace: Namespace = "default",
    everything: Annotated[bool, typer.Option("--all", help="Go on after the first violation and list all.")] = False,
    keep_last: KeepLast = None,
    endpoint: Endpoint = None,
    region: Region = None,
    credentials_dir: Credentials = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Audit a job's checkpoint log, and download and hash the data of all kept commits. Only reads.

    Exit codes: 0 all is right, 1 a violation, 2 cannot be asked like that, 3 the bucket or cluster does not answer or refuses.
    """
    with speaking():
        from spottune_cli.verify import audit

        place = _place(target, namespace, kubeconfig)
        bucket = _bucket(place, endpoint, region, credentials_dir)
        _console.print(str(place.location), style="bold", soft_wrap=True)
        found = audit(bucket, keep_last or place.keep_last, everything=everything, say=_say)
        if found:
            more = "" if everything else "; stopped at the first one, --all lists all"
            raise Refusal(Exit.VIOLATION, f"{found} violation{'' if found == 1 else 's'}{more}")
        _console.print("OK", style="bold green")


@app.command()
def restore(
    target: Target,
    into: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    at: Annotated[str, typer.Option(help="A step, `latest` or `final`.")] = "latest",
    full: Annotated[bool, typer.Option("--full", help="Also the complete state (optimizer, cursor, …) under state/.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that is not empty.")] = False,
    namespace: Namespace = "default",
    endpoint: Endpoint = None,
    region: Region = None,
    credentials_dir: Credentials = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Make a PEFT adapter of any kept commit: what `PeftModel.from_pretrained` loads. Everything is verified; only reads the bucket."""
    with speaking():
        from spottune_cli import restore as restoring
        from spottune_cli.history import understand
        from spottune_cli.timeline import size

        restoring.check_target(into, force=force)
        place = _place(target, namespace, kubeconfig)
        bucket = _bucket(place, endpoint, region, credentials_dir)
        contents = bucket.contents("data/")
        history = understand(contents.log, contents.keys, settled=contents.settled, keep_last=place.keep_last)
        commit = restoring.choose(history, at)
        loaded = bucket.load(commit, tuple(commit.digests) if full else restoring.NEEDED)
        if isinstance(loaded, str):
            raise Refusal(Exit.VIOLATION, restoring.unreadable(history, commit, loaded))
        wanted = restoring.contents(commit, loaded, full=full)
        restoring.write(into, wanted)
        loss = f", loss {commit.loss:.4f}" if commit.loss is not None else ""
        _say(f"step {commit.step} (slot {commit.slot}, attempt {commit.epoch}{loss}) is in {into}:")
        for name, content in wanted.items():
            _say(f"  {size(len(content)):>8}  {name}")


@app.command()
def doctor(
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace of the jobs to look at; default: all.")] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="For people or for programs.")] = Output.TABLE,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Look for what would cost a job its notice: installation, agents, NodePools, budgets, tolerations, queue, policies. Only reads.

    Exits 1 if there is a problem; warnings alone are 0.
    """
    with speaking():
        from spottune_cli import doctor as examination

        findings = examination.look(kubeconfig, namespace)
        told = examination.document(findings)
        if output is Output.JSON:
            typer.echo(json.dumps(told, indent=2))
        else:
            examination.show(findings, _console)
        if problems := told["problems"]:
            raise Refusal(Exit.VIOLATION, f"{problems} problem{'' if problems == 1 else 's'}")


@app.command()
def drill(
    job: str,
    kind: Annotated[Kind, typer.Option(help="What happens to the job.")],
    namespace: Namespace = "default",
    notice_seconds: Annotated[float, typer.Option(min=0, max=120, help="notice: so long before the machine would go away.")] = 120,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="cut and pause: how long.")] = 90,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Dollars of the machine; default: its spot price, if your AWS credentials tell it.")
    ] = None,
    fis_role_arn: Annotated[
        str, typer.Option(help="notice and rebalance: have AWS itself interrupt the job's instance, by FIS with this role.")
    ] = "",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until useful work must be done again.")] = 900,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask: it disturbs a running job.")] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="For people or for programs.")] = Output.TABLE,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Interrupt the running JOB on purpose and print what that cost: steps, seconds, dollars, and whether it goes on exactly.

    Exit codes: 0 useful work is done again (and with notice no step was lost), 1 the promise was not kept, 2 cannot be asked like that,
    3 the cluster or AWS does not answer or refuses.
    """
    with speaking():
        from spottune_cli.drill.card import document, lines
        from spottune_cli.drill.run import Drill, Order
        from spottune_cli.jobs import Connection

        for number in (signal.SIGTERM, signal.SIGHUP):  # what was changed is put back, as after Ctrl-C
            signal.signal(number, signal.default_int_handler)
        order = Order(kind, notice_seconds, seconds, timeout, price_per_hour, fis_role_arn)
        running = Drill(job, namespace, Connection(kubeconfig), order, _tell)
        before = running.look()
        if not yes and not _confirmed(f"Drill {kind} on the running job {namespace}/{job} (node {before.node})?"):
            raise Refusal(Exit.USAGE, "nothing was done: it would disturb a running job; say --yes")
        card = running.run()
        if output is Output.JSON:
            typer.echo(json.dumps(document(card), indent=2))
        else:
            for line in lines(card):
                _say(line)
        if card.broken:
            raise Refusal(Exit.VIOLATION, card.broken)


def follow(jobs: Jobs, name: str) -> dict[str, Any] | None:
    """Show the job until it ends, as a live view on a terminal and as changed lines elsewhere. Returns its last state."""
    last: dict[str, Any] | None = None
    shown = ""
    with Live(console=_console, auto_refresh=False, transient=False) if _console.is_terminal else _NoLive() as live:
        for last in jobs.follow(name):
            if isinstance(live, Live):
                live.update(view.panel(last), refresh=True)
            elif view.line(last) != shown:
                shown = view.line(last)
                typer.echo(shown)
            if view.phase(last) in view.TERMINAL_PHASES:
                return last
    return None


def _place(target: str, namespace: str, kubeconfig: str | None) -> Place:
    from spottune_cli.place import is_uri, of_job, of_uri

    if is_uri(target):
        return of_uri(target)
    from spottune_cli.jobs import Jobs

    return of_job(Jobs(namespace, kubeconfig).get(target))


def _bucket(place: Place, endpoint: str | None, region: str | None, credentials_dir: Path | None) -> Bucket:
    from spottune_cli.bucket import Bucket
    from spottune_cli.place import Access, open_place

    access: Access = Access(endpoint, region, str(credentials_dir) if credentials_dir else "")
    return Bucket(open_place(place, access), _errors)


def _confirmed(question: str) -> bool:
    return sys.stdin.isatty() and typer.confirm(question, err=True)


def _tell(line: str) -> None:
    """Progress, beside the answer."""
    _errors.print(f"{datetime.now():%H:%M:%S}  {line}", markup=False, highlight=False, soft_wrap=True)


def _say(line: str) -> None:
    _console.print(line, markup=False, soft_wrap=True)


class _NoLive:
    """Stands where `Live` would on a terminal."""

    def __enter__(self) -> _NoLive:
        return self

    def __exit__(self, *_: object) -> None:
        return None


if __name__ == "__main__":
    app()
