"""`docs/phases.md`, made from the planner itself: `python -m tests.contract.phases --write` or `--check`.

The transitions are not drawn by hand: they are those of every case of `tests.fixtures.planner_table`, in which
`tests/unit/operator/test_truth_table.py` compares table and planner.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from functools import cache
from pathlib import Path

from spottune_operator.api.reasons import Phase
from spottune_operator.planner.rules import RULES
from tests.fixtures.planner_table import AXES, GROUPS, answer, cases, phase_before, rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "phases.md"

_INTRODUCTION = """\
# Phases and rules

Generated from the planner by `make generate`; a test and `make lint` keep it current.

The operator looks at one job at a time: the job, its pods, the nodes below them, notices, the trainer's reports, the time. The first
rule of the list below that has something to say decides: what the status shall be, at most one side effect, and when to look
again. The status is written first (compare-and-swap), only then comes the side effect, then everything is looked at afresh.
"""


@cache
def transitions() -> dict[tuple[Phase, Phase], list[str]]:
    """Rules by (phase before, phase after), for all phases that differ."""
    found: dict[tuple[Phase, Phase], list[str]] = {}
    for case in cases():
        row, before = answer(case), phase_before(case)
        after = before if row.phase == "same" else Phase(row.phase)
        rules = found.setdefault((before, after), []) if after is not before else []
        if row.rule not in rules:
            rules.append(row.rule)
    return found


def render() -> str:
    """The whole page."""
    order, names = list(Phase), [rule.__name__ for rule in RULES]
    found = sorted(transitions().items(), key=lambda item: (order.index(item[0][0]), order.index(item[0][1])))
    lines = [_INTRODUCTION, "## Rules, in order", "", "| | what was found | what follows |", "|---|---|---|"]
    for number, rule in enumerate(RULES, 1):
        text = " ".join((inspect.getdoc(rule) or "").split())
        lines.append(f"| {number} | `{rule.__name__}` | {text} |")
    lines += [
        "",
        "## Transitions",
        "",
        "Deletion of the job leads to `Cancelled` from every phase that is not final, `spec.cancel` as soon as no trainer runs;",
        "both are left out of the picture.",
        "",
    ]
    lines += ["```mermaid", "stateDiagram-v2", f"    [*] --> {Phase.PENDING.value}"]
    for (before, after), _ in found:
        if after is not Phase.CANCELLED:
            lines.append(f"    {before.value} --> {after.value}")
    lines += [f"    {phase.value} --> [*]" for phase in Phase if phase.terminal]
    lines += ["```", "", "| from | to | by |", "|---|---|---|"]
    for (before, after), rules in found:
        by = ", ".join(f"`{name}`" for name in sorted(rules, key=names.index))
        lines.append(f"| {before.value} | {after.value} | {by} |")
    return "\n".join([*lines, *_truth_table()]) + "\n"


def _truth_table() -> list[str]:
    """What is found, and what answers: the table that the tests compare with the planner in every combination."""
    lines = [
        "",
        "## Truth table",
        "",
        "The first line that fits is the answer; `same` is the phase as it was. The tests compare the planner with this table in every",
        "combination of these axes, and check the promises in each of them:",
        "",
    ]
    lines += [f"* {axis}: {', '.join(values)}" for axis, values in AXES.items()]
    lines += ["", "Groups: " + "; ".join(f"`{name}` = {', '.join(values)}" for name, values in GROUPS.items()) + "."]
    lines += ["", "| found | rule | phase | side effect |", "|---|---|---|---|"]
    return lines + [f"| {row.conditions or 'anything else'} | `{row.rule}` | {row.phase} | {row.effect} |" for row in rows()]


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or say that it is stale. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract.phases", description=__doc__)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--write", action="store_true", help="write the page")
    group.add_argument("--check", action="store_true", help="exit 1 if the page is not what the planner does")
    if parser.parse_args(arguments).write:
        PAGE.write_text(render())
        return 0
    if not PAGE.is_file() or PAGE.read_text() != render():
        sys.stderr.write(f"{PAGE} is not current: run make generate\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
