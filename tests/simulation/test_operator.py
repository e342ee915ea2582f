"""Two real operators on a cluster in memory: any interleaving, any fault, and the design's invariants after every step.

What runs is the product's own `observe`, `plan` and executor; `operator_machine` says what may happen to them.
"""

from __future__ import annotations

import inspect
import random
import secrets
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.simulation.operator_machine import OperatorMachine
from tests.simulation.operator_process import NODES, POOLS

pytestmark = pytest.mark.usefixtures("no_log_lines")

WEIGHTS: dict[str, float] = {
    "nothing_goes_wrong": 12,
    "look": 12,
    "step": 30,
    "poll": 6,
    "schedule": 5,
    "start": 5,
    "work": 8,
    "reap": 6,
    "time_passes": 6,
    "notice": 2,
    "end": 2,
    "operator_dies": 2,
    "somebody_deletes_a_pod": 2,
    "find_no_node": 2,
    "find_no_image": 1,
    "driver_hangs": 2,
    "other_jobs_have_trouble": 1,
    "link": 2,
    "machine_dies": 1,
    "new_machine": 2,
    "suspend": 2,
    "cancel": 0.3,
    "limit_duration": 1,
    "retry": 2,
    "edit": 1,
    "go_onward": 1,
    "quota": 2,
    "namespace_is_deleted": 0.1,
    "delete_job": 1,
    "collect_garbage": 3,
    "back_up": 1,
    "etcd_is_restored": 1,
}
"""How often each rule comes in a random schedule."""

ARGUMENTS: dict[str, Any] = {
    "which": (0, 1),
    "looks": (1, 2, 3),
    "rounds": (1, 2, 5),
    "outcome": ("answered", "answered", "answered", "answered", "lost before", "lost after", "throttled"),
    "node": NODES,
    "kind": ("Interruption", "Rebalance"),
    "left": (-400, 0, 30, 110),
    "index": (0, 1, 2),
    "steps": (0, 1, 3),
    "commits": (True, True, False),
    "seen": (True, False),
    "end": ((1, False, "Error"), (30, True, "Error"), (137, False, "OOMKilled"), (0, True, "Completed")),
    "deleted": (True, False),
    "pool": POOLS,
    "interrupted": (True, False),
    "ready": (True, True, False),
    "removed": (True, False),
    "suspend": (True, False, False),
    "limit": (10, 100, 10_000),
    "quota": (True, True, False),
    "zones": (["z1"], ["z1", "z2"], ["z3"]),
    "seconds": (1.0, 5.0, 30.0, 61.0, 400.0),
    "handover": ("Warm", "Warm", "Cold"),
    "rebalance": ("Stay", "Move"),
    "how": ("background", "foreground", "again", "again"),
}


def random_schedule(seed: int, steps: int) -> None:
    """One schedule of `steps` weighted random steps and its end. The same seed is the same schedule."""
    chance = random.Random(seed)
    machine = OperatorMachine()
    machine.apply()
    for name in chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=steps):
        if name == "delete_job" and len(machine.world.logs) >= 3:
            continue
        act = getattr(machine, name)
        wanted = [n for n in inspect.signature(inspect.unwrap(act)).parameters if n != "self"]
        act(**{argument: chance.choice(ARGUMENTS[argument]) for argument in wanted})
        machine.one_claim_per_epoch()
    machine.teardown()


_QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@pytest.mark.parametrize("seed", range(40))
def test_the_invariants_hold_in_a_random_schedule(seed: int) -> None:
    """Always the same schedules, so that a failure is a change of ours."""
    random_schedule(seed, 120)


def test_the_invariants_hold_whatever_hypothesis_finds() -> None:
    """Shorter schedules than the random ones, but a failing one comes out as its shortest form."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        OperatorMachine,
        settings=settings(max_examples=40, stateful_step_count=30, suppress_health_check=_QUIET),
    )


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_the_invariants_hold_over_a_hundred_thousand_random_steps() -> None:
    """New schedules each time; a failing one is told as the command that repeats it."""
    first = secrets.randbelow(10**9)
    for seed in range(first, first + 500):
        try:
            random_schedule(seed, 200)
        except Exception as error:
            again = f'python -c "from tests.simulation.test_operator import random_schedule; random_schedule({seed}, 200)"'
            raise AssertionError(f"{error}\nTo repeat it: {again}") from error
