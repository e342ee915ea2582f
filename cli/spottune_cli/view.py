"""What a job looks like to a person: pure functions from the raw FineTuneJob to lines and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

TERMINAL_PHASES = frozenset({"Succeeded", "Failed", "Cancelled"})
_STYLE = {
    "Running": "green",
    "Succeeded": "bold green",
    "Failed": "bold red",
    "Cancelled": "red",
    "Draining": "yellow",
    "Waiting": "yellow",
}


def phase(job: Mapping[str, Any]) -> str:
    return str(job.get("status", {}).get("phase", "Pending"))


def line(job: Mapping[str, Any]) -> str:
    """One line that tells the state at a glance; equal lines mean that nothing a reader cares for has changed."""
    status = job.get("status", {})
    parts = [f"{phase(job):<10}", f"step {status.get('step', 0)}/{status.get('totalSteps', 0) or '?'}"]
    if status.get("loss") is not None:
        parts.append(f"loss {status['loss']:.4f}")
    if status.get("attempt"):
        parts.append(f"attempt {status['attempt']}")
    if status.get("pool"):
        parts.append(f"pool {status['pool']}")
    if status.get("node"):
        parts.append(f"node {status['node']}")
    parts.append(f"interruptions {status.get('interruptions', 0)}")
    return "  ".join(parts)


def failure(job: Mapping[str, Any]) -> str:
    """Why the job failed: the messages of the conditions that are False, worst first."""
    conditions = job.get("status", {}).get("conditions", [])
    bad = [c for c in conditions if c.get("status") == "False"]
    return "; ".join(f"{c['type']}={c['status']} {c.get('reason', '')}: {c.get('message', '')}" for c in bad)


def panel(job: Mapping[str, Any]) -> RenderableType:
    """The live view: a head line, a bar, and one row for each attempt."""
    status = job.get("status", {})
    meta = job.get("metadata", {})
    word = phase(job)
    head = Text.assemble(
        (f"{meta.get('namespace', '')}/{meta.get('name', '')}  ", "bold"),
        (word, _STYLE.get(word, "cyan")),
        f"  step {status.get('step', 0)}/{status.get('totalSteps', 0) or '?'}",
        f"  loss {status['loss']:.4f}" if status.get("loss") is not None else "",
        f"  eval {status['evalLoss']:.4f}" if status.get("evalLoss") is not None else "",
        f"  interruptions {status.get('interruptions', 0)}",
    )
    bar = Table.grid()
    bar.add_row(ProgressBar(total=max(1, status.get("totalSteps", 0)), completed=status.get("step", 0), width=60))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("attempt", "pool", "node", "steps", "ended by"):
        table.add_column(column)
    for attempt in status.get("attempts", [])[-6:]:
        last = attempt.get("stepTo")
        first = attempt.get("stepFrom", 0 if last is not None else None)
        if attempt.get("epoch") == status.get("attempt") and not attempt.get("endedAt"):
            last = status.get("step", last)
        steps = f"{first if first is not None else '·'} → {last if last is not None else '·'}"
        ended = attempt.get("reason", "") if attempt.get("endedAt") else ""
        table.add_row(str(attempt.get("epoch", "")), attempt.get("pool", ""), attempt.get("node", ""), steps, ended)
    return Group(head, bar, table)
