"""`docs/phases.md`, made from the planner itself: `python -m tests.contract.phases` writes it.

The transitions are not drawn by hand: the planner is asked for its answer in every combination of phase, pod, notice, refused
create, suspension and deletion, and what it answers is drawn.
"""

from __future__ import annotations

import inspect
import itertools
from functools import cache
from pathlib import Path

from spottune_operator.api.reasons import Phase
from spottune_operator.planner.plan import plan
from spottune_operator.planner.rules import RULES
from spottune_operator.planner.types import Notice, ObservedPod, Obstacle, ObstacleKind, PodState
from tests.fixtures.observations import EPOCH, NOW, ended, log, observed, pod, progress, resting, spec, status

PAGE = Path(__file__).resolve().parents[2] / "docs" / "phases.md"

_INTRODUCTION = """\
# Phases and rules

Generated from the planner by `python -m tests.contract.phases`; a test keeps it current.

The operator looks at one job at a time: the job, its pods, the nodes below them, notices, the trainer's reports, the time. The first
rule of the list below that has something to say decides: what the status shall be, at most one side effect, and when to look
again. The status is written first (compare-and-swap), only then comes the side effect, then everything is looked at afresh.
"""


@cache
def transitions() -> dict[tuple[Phase, Phase], list[str]]:
    """Rules by (phase before, phase after), for all phases that differ."""
    pods: list[ObservedPod | None] = [
        None,
        *(pod(state) for state in PodState if state is not PodState.ENDED),
        pod(PodState.SCHEDULING, unschedulable="no node fits", created_at=NOW - 100),
        pod(PodState.CREATING, waiting_reason="ImagePullBackOff"),
        pod(progress=progress()),
        *(ended(code, log=log()) for code in (0, 10, 11, 12, 20, 30)),
    ]
    notices: list[tuple[Notice, ...]] = [(), (Notice("n1", "Interruption", "sqs", NOW + 90),), (Notice("n1", "Rebalance", "sqs"),)]
    obstacles = [None, *(Obstacle(kind, EPOCH, "refused", NOW) for kind in ObstacleKind)]
    statuses = [
        status(attempt=0, accounted=0, phase=Phase.PENDING, pod_uid="", attempts=()),
        *(status(phase=phase) for phase in (Phase.STARTING, Phase.RUNNING, Phase.DRAINING, Phase.WAITING)),
        *(status(phase=phase, pod_uid="") for phase in (Phase.STARTING, Phase.WAITING)),
        *(
            resting(phase=phase)
            for phase in (Phase.ACCOUNTING, Phase.WAITING, Phase.SUSPENDED, Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)
        ),
        resting(phase=Phase.ACCOUNTING, not_before=NOW + 10),
        *(resting(phase=phase, active_seconds=10) for phase in (Phase.ACCOUNTING, Phase.WAITING, Phase.SUSPENDED)),
        status(phase=Phase.RUNNING, failures=2, no_progress=2),
    ]
    single = spec(capacity={"instanceTypes": ["g5.xlarge"], "zones": ["us-east-1a"]})
    wishes = [spec(suspend=True), spec(cancel=True), spec(maxDuration="1s", retryToken="again")]
    specs = [spec(), *wishes, single, None]
    found: dict[tuple[Phase, Phase], list[str]] = {}
    for recorded, seen, notice, obstacle, wanted, deleting in itertools.product(statuses, pods, notices, obstacles, specs, (False, True)):
        # A notice is about a pod, and what it leads to depends on no more of the spec than that a trainer is wanted.
        if (seen is not None and obstacle is not None) or (notice and (seen is None or wanted is not specs[0])):
            continue
        job = observed(*([seen] if seen else []), status=recorded, notices=notice, obstacle=obstacle, spec=wanted, deleting=deleting)
        answer = plan(job)
        if answer.status.phase is not recorded.phase:
            rules = found.setdefault((recorded.phase, answer.status.phase), [])
            if answer.rule not in rules:
                rules.append(answer.rule)
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
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render())
