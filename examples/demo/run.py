"""Apply a job and see it through to its end, taking machines away on the way."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from rich.live import Live

from examples.demo import kills as killing
from examples.demo import product
from examples.demo.kills import Kill
from examples.demo.kube import CommandFailed, Kube
from examples.demo.proof import Interrupted
from examples.demo.screen import console, say
from localcloud.home import Home
from localcloud.node import NodeError
from spottune_cli import view
from spottune_cli.jobs import Jobs


class JobFailed(RuntimeError):
    """The job did not succeed; the message is what its conditions say."""

    def __init__(self, job: str, message: str) -> None:
        super().__init__(f"{job}: {message}")
        self.job = job


@dataclass
class Run:
    """What was seen of one job."""

    name: str
    prefix: str = "  "
    """Of each line on the screen."""
    uid: str = ""
    seconds: float = 0.0
    job: dict[str, Any] = field(default_factory=dict)
    interruptions: list[Interrupted] = field(default_factory=list)
    first_step_at: dict[int, float] = field(default_factory=dict)
    warned: int = 0
    """Interruptions that a rebalance recommendation was sent for."""


def remove(kube: Kube, name: str) -> None:
    """Delete a job of an earlier demo; its objects stay in the bucket under its own UID."""
    kube.kubectl("delete", "ftj", name, "-n", product.NAMESPACE, "--ignore-not-found", "--wait=true", "--timeout=150s")


def see_through(
    home: Home,
    kube: Kube,
    document: dict[str, Any],
    kills: tuple[Kill, ...] = (),
    limit_seconds: float = 1500,
    *,
    alone: bool = True,
    every_kill: bool = True,
) -> Run:
    """Apply the job, follow it, carry out the kills when their steps are reached. Raises `JobFailed`.

    Not `alone`: others write to the same screen, and each line names its job. Not `every_kill`: a trainer that nobody could reach for a
    while may have finished the job meanwhile.
    """
    name = document["metadata"]["name"]
    remove(kube, name)
    kube.apply(document)
    run = Run(name, prefix="  " if alone else f"  {name}: ")
    begun = time.monotonic()
    shown = ""
    live = Live(console=console, auto_refresh=False) if console.is_terminal and alone else None
    if live:
        live.start()
    try:
        for job in Jobs(product.NAMESPACE, str(kube.kubeconfig)).follow(name, every=0.5):
            run.job, run.uid = job, job["metadata"]["uid"]
            if live:
                live.update(view.panel(job), refresh=True)
            elif view.line(job) != shown:
                shown = view.line(job)
                say(f"{run.prefix}{shown}")
            _look(home, kube, run, kills)
            if view.phase(job) in view.TERMINAL_PHASES:
                break
            if time.monotonic() - begun > limit_seconds:
                raise JobFailed(
                    name, f"not done after {limit_seconds:.0f} s: {view.line(job)}; kubectl describe ftj {name} -n {product.NAMESPACE}"
                )
    finally:
        if live:
            live.stop()
    run.seconds = time.monotonic() - begun
    if view.phase(run.job) != "Succeeded":
        raise JobFailed(name, f"{view.phase(run.job)}: {view.failure(run.job)}")
    if every_kill and len(run.interruptions) < len(kills):
        raise JobFailed(name, f"done before {len(kills) - len(run.interruptions)} of the kills could be carried out")
    return run


def _look(home: Home, kube: Kube, run: Run, kills: tuple[Kill, ...]) -> None:
    """Ask the current trainer how far it is, and take its machine away when it is time."""
    status = run.job.get("status", {})
    pod, node = status.get("pod"), status.get("node")
    progress = kube.progress(product.NAMESPACE, pod) if pod and node else None
    if progress is None:
        return
    if progress.first_step_at:
        run.first_step_at.setdefault(progress.epoch, progress.first_step_at)
    last = run.interruptions[-1] if run.interruptions else None
    if last and progress.epoch <= last.epoch:
        # Still the attempt that was interrupted: it may finish steps until its end.
        run.interruptions[-1] = replace(last, step_reached=max(last.step_reached, progress.step))
        return
    if progress.first_step_at == 0:
        return
    done = len(run.interruptions)
    if run.warned == done and killing.warning_due(kills, done, progress.step):
        run.warned = done + 1
        say(f"{run.prefix}[yellow]⚡ step {progress.step}: {killing.warn(home, node)}[/yellow]")
    kill = killing.due(kills, done, progress.step)
    if kill is None:
        return
    at = time.time()
    try:
        sentence = killing.carry_out(home, node, pod, kill, kube)
    except NodeError:
        # It is off already, and the operator does not know yet: the next attempt's machine is taken.
        return
    run.interruptions.append(Interrupted(str(kill.kind), at, progress.epoch, progress.step, kill.kind.told))
    say(f"{run.prefix}[yellow]⚡ step {progress.step}: {sentence}[/yellow]")


def describe(kube: Kube, name: str) -> str:
    """`kubectl describe` of a job, for a failure's report."""
    try:
        return kube.kubectl("describe", "ftj", name, "-n", product.NAMESPACE)
    except CommandFailed as error:
        return str(error)
