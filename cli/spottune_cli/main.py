"""The `spottune` command; installed as `kubectl-finetune` it is also `kubectl finetune`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from spottune_cli import view
from spottune_cli.jobs import JobNotFound, Jobs
from spottune_contract.version import CONTRACT_VERSION

app = typer.Typer(help="Follow fine-tuning jobs on spot nodes.", no_args_is_help=True, add_completion=False)
_console = Console()

Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the job.")]
Kubeconfig = Annotated[str | None, typer.Option(envvar="KUBECONFIG", help="Path of a kubeconfig; default: the usual places.")]


@app.command()
def version() -> None:
    """Print the version of the contract between operator and trainer."""
    typer.echo(f"contract {CONTRACT_VERSION}")


@app.command()
def watch(job: str, namespace: Namespace = "default", kubeconfig: Kubeconfig = None) -> None:
    """Follow JOB until it ends: phase, step, loss, node, pool, attempts. Exits 1 unless it succeeds."""
    try:
        last = follow(Jobs(namespace, kubeconfig), job)
    except JobNotFound as error:
        raise SystemExit(f"spottune: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if last is None or view.phase(last) != "Succeeded":
        raise SystemExit(f"spottune: {view.phase(last)}: {view.failure(last)}" if last else "spottune: the job was deleted")


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


class _NoLive:
    """Stands where `Live` would on a terminal."""

    def __enter__(self) -> _NoLive:
        return self

    def __exit__(self, *_: object) -> None:
        return None


if __name__ == "__main__":
    app()
