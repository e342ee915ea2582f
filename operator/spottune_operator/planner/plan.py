"""`plan`: from everything that was observed of one job to what shall be. Pure and total."""

from __future__ import annotations

from dataclasses import replace

from spottune_operator.planner.reports import taken_over, throttled
from spottune_operator.planner.rules import RULES
from spottune_operator.planner.situation import sort
from spottune_operator.planner.statuses import fit, handled
from spottune_operator.planner.types import Observed, Plan


def plan(observed: Observed) -> Plan:
    """The answer of the first rule that has one. Never raises, never fetches, knows no clock but `observed.now`."""
    situation = sort(observed)
    situation = replace(situation, status=taken_over(observed, situation.status, situation.current))
    for rule in RULES:
        answer = rule(situation)
        if answer is not None:
            status = throttled(observed.status, fit(answer.status), observed.now, observed.settings.progress_interval)
            if status == observed.status and answer.action is None and not answer.look_live:
                status = handled(status, now=observed.now)
            return replace(answer, status=status)
    raise AssertionError("the last rules cover everything")
