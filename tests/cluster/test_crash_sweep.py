"""The real operator is killed, fails or hangs at each of its failpoints, and is started again, while many jobs live their lives.

The API server is real; users, kubelets, trainers and machines are hollow. What happened is judged from the API server's own watches.
"""

from __future__ import annotations

import itertools
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kubernetes import client

from tests.fixtures.history import History, Story
from tests.fixtures.hollow_cluster import HollowCluster
from tests.fixtures.hollow_nodes import HollowNodes
from tests.fixtures.notice_queue import AWS, Queue
from tests.fixtures.operator_process import HollowTrainer, Jobs, OperatorProcess, await_value

pytestmark = pytest.mark.cluster

Start = Callable[..., OperatorProcess]
Cell = tuple[str, str]
"""A failpoint and what happens there."""

_ROOT = Path(__file__).parents[2]
POINTS = ("O1", "O2", "O3", "O4", "O5", "O6", "O7", "O8")
KILLS = {"crash before": "kill", "crash after": "sleep=0", "hang": "stop"}
"""What the failpoint does, so that the process can be killed there, a moment later, or while it is stopped."""
LIFE_SECONDS = 60.0
"""A failpoint that a process does not pass in this time, once it works, is tried again by another one."""
START_SECONDS = 300.0
"""On a machine that has other things to do."""


@dataclass
class Campaign:
    """One operator process after another; each is killed at one failpoint, and fails at another one before if it comes by."""

    start: Start
    queue: Queue
    world: HollowCluster
    history: History
    chance: random.Random
    fired: Counter[Cell] = field(default_factory=Counter)
    in_vain: int = 0
    """Processes that did not come by the failpoint at which they were to be killed."""
    _stopped: list[OperatorProcess] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(count for (_, action), count in self.fired.items() if action in KILLS)

    def life(self, point: str, action: str) -> None:
        others = [other for other in POINTS if other != point]
        weak = min(others, key=lambda other: (self.fired[other, "error"], self.chance.random()))
        pass_ = 1 if point in ("O7", "O8") else self.chance.randint(1, 3)
        operator = self._start(f"{point}:{KILLS[action]}:{pass_},{weak}:raise")
        self._awaken(operator)
        self._fired(operator, point)
        if action == "crash after":
            time.sleep(self.chance.uniform(0, 0.1))
        text = operator.text()
        self.fired[weak, "error"] += f"failpoint {weak} fired" in text
        if f"failpoint {point} fired" not in text:
            self.in_vain += 1
        else:
            self.fired[point, action] += 1
            if action == "hang":
                self._stopped.append(operator)
                return
        operator.kill()

    def end(self) -> None:
        """The faults stop: every job comes to its end, and then nothing is written any more."""
        self.world.refill = False
        self._awaken(self._start(""))
        await_value(lambda: self._checked() and self.world.all_over, "all jobs are over", 2 * START_SECONDS)
        await_value(self.queue.empty, "all notices are handled", START_SECONDS)
        time.sleep(2)
        before = len(self.history.changes())
        time.sleep(12)
        assert len(self.history.changes()) == before, "I11: a write although nothing changed"
        assert self.world.jobs.pods() == [], "orphans"

    def table(self) -> str:
        actions = (*KILLS, "error")
        rows = [f"{point}  " + "".join(f"{self.fired[point, action]:>14}" for action in actions) for point in POINTS]
        return "\n".join(["    " + "".join(f"{action:>14}" for action in actions), *rows])

    def _start(self, failpoints: str) -> OperatorProcess:
        return self.start(*self.queue.flags, environ=AWS, failpoint=failpoints)

    def _awaken(self, successor: OperatorProcess) -> None:
        """A process that was stopped goes on for a moment beside its successor; both believe that they lead."""

        def acts() -> bool:
            return self._checked() and (successor.leads() or " fired: " in successor.text())

        for old in self._stopped:
            await_value(acts, "the next one leads", START_SECONDS)
            old.signal(signal.SIGCONT)
            time.sleep(self.chance.uniform(0.1, 2))
            old.kill()
        self._stopped.clear()

    def _fired(self, operator: OperatorProcess, point: str) -> None:
        await_value(lambda: self._checked() and "operating" in operator.text(), "the operator works", START_SECONDS)
        give_up = time.monotonic() + LIFE_SECONDS
        while f"failpoint {point} fired" not in operator.text() and time.monotonic() < give_up:
            self._checked()
            assert operator.exit_code() is None or "fired: kill" in operator.text(), operator.text()[-3000:]
            time.sleep(0.005)

    def _checked(self) -> bool:
        self.world.check()
        assert self.history.failure is None, self.history.failure
        return True


@pytest.fixture
def begin(
    start_operator: Start,
    jobs: Jobs,
    hollow_nodes: HollowNodes,
    queue: Queue,
    hollow_trainers: Callable[[], HollowTrainer],
    kube: client.ApiClient,
) -> Callable[[int, int], Campaign]:
    def make(at_once: int, seed: int) -> Campaign:
        history = History(kube, jobs.namespace)
        world = HollowCluster(jobs, hollow_nodes, queue, hollow_trainers, at_once=at_once, seed=seed)
        return Campaign(start_operator, queue, world, history, random.Random(seed))

    return make


def judged(campaign: Campaign) -> Story:
    campaign.world.close()
    campaign.history.close()
    story = Story.of(campaign.history.changes())
    assert all(status.phase.terminal for uid, status in story.statuses.items() if uid not in story.gone), "a job is not over"
    assert campaign.world.failure is None
    return story


@pytest.mark.long
def test_jobs_live_through_an_operator_that_dies_again_and_again(begin: Callable[[int, int], Campaign]) -> None:
    campaign = begin(6, 1)
    cells = [("O2", "crash before"), ("O5", "hang"), ("O3", "crash after")]
    for cell in cells:
        campaign.life(*cell)
    campaign.end()
    judged(campaign)
    assert [campaign.fired[cell] for cell in cells] == [1, 1, 1]


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_two_hundred_kills_at_every_failpoint_lose_no_job_and_make_no_second_pod(begin: Callable[[int, int], Campaign]) -> None:
    """Nine kills of each kind at each failpoint: 216, and as many errors on the way."""
    seed, began = random.SystemRandom().randrange(10**6), time.monotonic()
    print(f"seed {seed}")
    campaign, cells = begin(12, seed), list(itertools.product(POINTS, KILLS))
    while missing := [cell for cell in cells if campaign.fired[cell] < 9]:
        campaign.life(*min(missing, key=lambda cell: campaign.fired[cell]))
        print(f"{time.monotonic() - began:.0f} s: {campaign.kills} kills, jobs over {sum(campaign.world.over.values())}", flush=True)
    campaign.end()
    story = judged(campaign)
    print(f"{time.monotonic() - began:.0f} s\n{campaign.table()}")
    print(f"{campaign.kills} kills, {campaign.in_vain} processes that did not come by their failpoint")
    print(f"{len(story.statuses)} jobs: {dict(campaign.world.over)}; {len(story.made)} attempts, {story.pods} pods, of them")
    print(
        f"{story.made_again} made again for one that was gone unseen; {story.interruptions} interruptions; {dict(campaign.world.endings)}"
    )
    assert min(campaign.fired[point, "error"] for point in POINTS) > 0


def test_no_failpoint_is_missing() -> None:
    """The page of failpoints is made from the code."""
    assert re.findall(r"^\| (O\d+) ", (_ROOT / "docs" / "failpoints.md").read_text(), re.M) == list(POINTS)
