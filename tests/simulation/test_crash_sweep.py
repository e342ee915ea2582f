"""The operator dies, fails or hangs at each of its failpoints and in the middle of each kind of write; another takes over.

In every schedule at the end: each job in its right phase, no pod left over, no second pod beside a live one, nothing written any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from pathlib import Path

import pytest

from spottune_operator import executor
from spottune_operator.api.reasons import Phase
from spottune_operator.api.v1alpha1 import FineTuneJobStatus
from spottune_operator.notices import desk
from tests.fixtures.virtual_time import run_virtually
from tests.simulation.installation import NODES, Fault, Installation, Killed

pytestmark = pytest.mark.usefixtures("no_log_lines")

POINTS = ("O1", "O2", "O3", "O4", "O5", "O6", "O7", "O8")
CALLS = ("write status", "create pod", "delete pod", "create event")
ACTIONS = ("crash before", "crash after", "error", "hang")
SPEC = {
    "model": {"source": "/model"},
    "dataset": {"source": "/data.jsonl"},
    "training": {"maxSteps": 6},
    "checkpoint": {"storage": "s3://bucket/prefix"},
}
RIGHT = {"plain": Phase.SUCCEEDED, "second": Phase.SUCCEEDED, "third": Phase.SUCCEEDED, "misconfigured": Phase.FAILED}
"""What becomes of each job; `deleted` is deleted in mid-run and leaves nothing."""
END = 3 * 3600.0


def schedule(point: str, action: str, nth: int, seed: int) -> Installation:
    """One schedule. The same arguments are the same schedule."""
    site = Installation(seed, Fault(point, action, nth))
    patch = pytest.MonkeyPatch()
    patch.setattr(executor, "hit", site.hit)
    patch.setattr(desk, "hit", site.hit)
    try:
        run_virtually(_run(site))
    except Exception as error:
        call = f"schedule({point!r}, {action!r}, {nth}, {seed})"
        again = f'python -c "from tests.simulation.test_crash_sweep import schedule; {call}"'
        raise AssertionError(f"{error}\nTo repeat it: {again}") from error
    finally:
        patch.undo()
    return site


async def _run(site: Installation) -> None:
    world, loop = site.world, asyncio.get_running_loop()
    loop.set_exception_handler(_unheard)
    for name in NODES:
        world.add_node(name)
    for name in (*RIGHT, "deleted"):
        job = world.add_job(name, dict(SPEC))
        if name == "misconfigured":
            site.bad.add(job["metadata"]["uid"])
    for _ in range(1 + site.seed % 2):
        site.start_operator()
    loop.call_later(site.chance("delete").uniform(1, 60), world.delete_job, "deleted")
    for at in (15, 40, 80):
        loop.call_later(at, site.announce, site.chance("announce").choice(NODES))
    around = [loop.create_task(site.kubelets()), loop.create_task(site.nodes_come_and_go())]
    try:
        while not _over(site):
            assert not site.broken, site.broken
            assert loop.time() < END, f"lost: {_phases(site)}, pods {list(world.pods)}"
            await asyncio.sleep(5)
            for task in around:
                if task.done():
                    task.result()
        await asyncio.sleep(30)
        before = world.writes
        await asyncio.sleep(60)
        assert world.writes == before, "I11: a write although nothing changed"
        assert _over(site), "what was over is over"
    finally:
        everything = [*around, *(task for operator in site.operators for task in operator.tasks)]
        for operator in site.operators:
            operator.dead = True
            operator.thawed.set()
        for task in everything:
            task.cancel()
        for task in everything:
            with contextlib.suppress(asyncio.CancelledError):
                await task
    assert not site.broken, site.broken
    assert _phases(site) == RIGHT, "a wrong phase"
    assert site.fired, "the failpoint did not fire"


def _unheard(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """The tasks of a killed process end as they may."""
    if not isinstance(context.get("exception"), Killed):
        loop.default_exception_handler(context)


def _phases(site: Installation) -> dict[str, Phase]:
    return {name: FineTuneJobStatus.parse(job.get("status")).phase for name, job in site.world.jobs.items()}


def _over(site: Installation) -> bool:
    return site.fired and not site.stormy and not site.world.pods and all(phase.terminal for phase in _phases(site).values())


def nth(point: str, seed: int) -> int:
    """Notices and event names come less often than writes."""
    return 1 + seed % (2 if point in ("O7", "O8") else 4)


def sweep(points: tuple[str, ...], seeds: range) -> Counter[tuple[str, str]]:
    fired: Counter[tuple[str, str]] = Counter()
    for point, action, seed in itertools.product(points, ACTIONS, seeds):
        site = schedule(point, action, nth(point, seed), seed)
        fired[point, action] += site.fired
    return fired


@pytest.mark.parametrize("point", [*POINTS, *CALLS])
def test_whatever_happens_to_the_operator_there_every_job_ends_rightly(point: str) -> None:
    seed = [*POINTS, *CALLS].index(point)
    fired = sweep((point,), range(seed, seed + 1))
    assert fired == dict.fromkeys(itertools.product((point,), ACTIONS), 1)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("point", [*POINTS, *CALLS])
def test_whatever_happens_to_the_operator_there_every_job_ends_rightly_in_a_hundred_schedules(point: str) -> None:
    """Twelve points: 1,200 schedules."""
    fired = sweep((point,), range(100, 125))
    print(f"fired: {dict(fired)}")
    assert fired == dict.fromkeys(itertools.product((point,), ACTIONS), 25)


def test_every_failpoint_of_the_operator_is_swept() -> None:
    page = (Path(__file__).parents[2] / "docs" / "failpoints.md").read_text()
    assert [name for name in POINTS if f"| {name} |" not in page] == []
    assert sum(line.startswith("| O") for line in page.splitlines()) == len(POINTS)


def test_a_schedule_is_repeated_by_its_arguments() -> None:
    first, second = (schedule("O3", "hang", 2, 7) for _ in range(2))
    assert first.passes == second.passes
    assert first.world.created == second.world.created
