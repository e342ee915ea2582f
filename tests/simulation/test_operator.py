"""Two real operators on a cluster in memory: any interleaving, any fault, and the design's invariants after every step.

What runs is the product's own `observe`, `plan` and executor. Each call of theirs is carried out, delayed, lost on its way or
lost on its way back as Hypothesis chooses; between any two calls the world may change, and an operator may die. When the faults
stop, every job must come to its end.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import random
import secrets
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from spottune_operator.api.reasons import Phase
from spottune_operator.api.v1alpha1 import STATUS_LIMIT, FineTuneJobStatus, StatusModel
from spottune_operator.cluster import ClusterError
from spottune_operator.executor import Clocks, Executor, Unsettled
from spottune_operator.manifests import TrainerDefaults
from spottune_operator.metrics import Metrics
from spottune_operator.observe import classify
from spottune_operator.planner.statuses import size
from spottune_operator.planner.types import Notice, Settings
from spottune_operator.view import JobKey, View
from tests.simulation.cluster_model import Call, Json, ModelCluster, ModelTrainers, Outcome, Process, World, carry_out, epoch_of, owner

JOB = "python-help"
KEY = JobKey("demo", JOB)
SETTINGS = Settings()
DEFAULTS = TrainerDefaults(cluster="sim", image="trainer")
NODES = ("n1", "n2", "n3")
TOTAL_STEPS = 24
SPEC: Json = {
    "model": {"source": "/model"},
    "dataset": {"source": "/data.jsonl"},
    "training": {"maxSteps": TOTAL_STEPS},
    "checkpoint": {"storage": "s3://bucket/prefix"},
    "capacity": {"instanceTypes": ["t1", "t2"], "zones": ["z1"]},
}


class Board:
    """Notices as an operator holds them."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    def about(self, nodes: object) -> tuple[Notice, ...]:
        return tuple(self.notices)


@dataclass
class Operator:
    """One operator process: its memory, and the look that it is in the middle of."""

    world: World
    view: View = field(default_factory=View)
    looking: Coroutine[Any, Any, float | None] | None = None
    call: Call | None = None
    again: float | None = None
    live_before: frozenset[str] = frozenset()
    """Pods that might have trained when this look listed them."""
    job_was_there: bool | None = None
    """And not under deletion, when this look began by reading it."""

    def __post_init__(self) -> None:
        self.view.notices = Board()  # type: ignore[assignment]
        self.executor = Executor(
            ModelCluster(self.world),
            ModelTrainers(self.world),  # type: ignore[arg-type]
            self.view,
            defaults=DEFAULTS,
            settings=SETTINGS,
            metrics=Metrics(),
            clocks=Clocks(wall=lambda: self.world.now, monotonic=lambda: self.world.now),
        )

    def begin(self) -> None:
        self.view.nodes = dict(self.world.nodes)
        self.job_was_there = None
        self.looking = self.executor.look(KEY)
        self._resume(lambda look: look.send(None))

    def answer(self, outcome: Outcome) -> None:
        """Carry out the call that this operator waits for."""
        call = self.call
        assert call is not None
        if call.name == "get job" and self.job_was_there is None:
            self.job_was_there = "deletionTimestamp" not in self.world.jobs.get(JOB, {"metadata": {"deletionTimestamp": ""}})["metadata"]
        if call.name == "list pods":
            self.live_before = frozenset(uid for uid, live in self.liveness() if live)
        try:
            result = carry_out(call, outcome)
        except ClusterError as error:
            failure = error
            self._resume(lambda look: look.throw(failure))
        else:
            self._resume(lambda look: look.send(result))

    def liveness(self) -> list[tuple[str, bool]]:
        pods = self.world.pods.values()
        nodes = self.world.nodes
        return [(p["metadata"]["uid"], classify(p, nodes.get(p["spec"].get("nodeName", "")), self.world.now, SETTINGS).live) for p in pods]

    def run(self) -> None:
        """One look from its beginning to its end, without faults."""
        if self.looking is None:
            self.begin()
        while self.looking is not None:
            self.answer("answered")

    def die(self) -> None:
        """SIGKILL: whatever the code would still like to call is not carried out."""
        while self.looking is not None:
            with contextlib.suppress(RuntimeError):
                self.looking.close()
                self.looking = None

    def _resume(self, step: Any) -> None:
        try:
            self.call = step(self.looking)
        except StopIteration as stop:
            self.looking, self.call, self.again = None, None, stop.value
        except ClusterError:
            # The work queue would come back later with a backoff.
            self.looking, self.call, self.again = None, None, 1.0


class OperatorMachine(RuleBasedStateMachine):
    """The world and its operators."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(total_steps=TOTAL_STEPS, on_status=self.check_status, on_create=self.check_create)
        self.operators = [Operator(self.world), Operator(self.world)]
        self.acting: Operator | None = None
        self.verdicts: dict[tuple[str, int], str] = {}
        self.backup: Json | None = None

    @initialize()
    def apply(self) -> None:
        for name in NODES:
            self.world.add_node(name)
        self.world.add_job(JOB, dict(SPEC))

    # -- invariants that hold at every write ---------------------------------------------------------------------------

    def check_status(self, job: Json, after: Json) -> None:
        old, new = FineTuneJobStatus.parse(job.get("status")), FineTuneJobStatus.model_validate(after)
        uid = job["metadata"]["uid"]
        assert no_extras(new), "a field that the types do not know"
        assert size(new) <= STATUS_LIMIT, "I16"
        assert new.attempt >= old.attempt, "I2"
        assert new.accounted >= old.accounted, "an end is recorded once"
        assert not old.phase.terminal or new.phase is old.phase, f"{old.phase} is final"
        for attempt in new.attempts:
            if attempt.verdict is not None:
                known = self.verdicts.setdefault((uid, attempt.epoch), attempt.verdict.value)
                assert known == attempt.verdict.value, "I13: a verdict was changed"
        spent = max(0, new.failures - old.failures) + (new.interruptions - old.interruptions)
        assert 0 <= spent <= (new.accounted > old.accounted), "I13: an epoch was counted twice"
        if new.failures > old.failures:
            assert self.world.true_ends.get((uid, new.attempt)) in ("code 1", "code 30", "code 137 OOM"), (
                "I13: an interruption spent the budget"
            )
        assert new.failures <= 3, "the limit was passed"

    def check_create(self, pod: Json) -> None:
        job = self.world.jobs.get(JOB)
        acting = self.acting
        assert acting is not None
        assert acting.job_was_there, "I10: a deleted job caused a create"
        if job is not None and owner(pod) == job["metadata"]["uid"]:
            assert job.get("status", {}).get("attempt", 0) >= epoch_of(pod), "I3"
        older = [
            p
            for p in self.world.pods.values()
            if owner(p) == owner(pod) and epoch_of(p) < epoch_of(pod) and p["metadata"]["uid"] in acting.live_before
        ]
        still = [p for p in older if dict(acting.liveness()).get(p["metadata"]["uid"])]
        assert not still, "I4: an older pod may still train"

    @invariant()
    def one_claim_per_epoch(self) -> None:
        for log in self.world.logs.values():
            assert list(log.claims) == sorted(log.claims), "I1"

    # -- operators -----------------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), looks=st.integers(1, 4))
    def look(self, which: int, looks: int) -> None:
        for _ in range(looks):
            self.with_acting(which, lambda op: op.run())

    @rule(which=st.integers(0, 1), outcome=st.sampled_from(["answered", "answered", "answered", "lost before", "lost after"]))
    def step(self, which: int, outcome: Outcome) -> None:
        operator = self.operators[which]
        if operator.looking is None:
            self.with_acting(which, lambda op: op.begin())
        else:
            self.with_acting(which, lambda op: op.answer(outcome))

    @rule(which=st.integers(0, 1))
    def operator_dies(self, which: int) -> None:
        self.operators[which].die()
        self.operators[which] = Operator(self.world)

    @rule(which=st.integers(0, 1))
    def poll(self, which: int) -> None:
        for process in self.world.running():
            pod = self.world.pod_of(process)
            if pod is not None and self.world.reachable(pod):
                self.operators[which].view.progress[process.pod_uid] = self.world.report(process)

    @rule(
        which=st.integers(0, 1),
        node=st.sampled_from(NODES),
        kind=st.sampled_from(["Interruption", "Rebalance"]),
        left=st.sampled_from([-400, 0, 30, 110]),
    )
    def notice(self, which: int, node: str, kind: Any, left: int) -> None:
        self.operators[which].view.notices.notices.append(Notice(node, kind, "sqs", self.world.now + left))  # type: ignore[attr-defined]

    @rule(which=st.integers(0, 1), rounds=st.integers(1, 5))
    def nothing_goes_wrong(self, which: int, rounds: int) -> None:
        """For a while, so that faults meet attempts of every age."""
        for _ in range(rounds):
            self.poll(which)
            self.with_acting(which, lambda op: op.run())
            for pod in list(self.world.pods.values()):
                progress(self.world, pod)
            self.world.now += 2

    def with_acting(self, which: int, act: Any) -> None:
        self.acting = self.operators[which]
        try:
            act(self.acting)
        except Unsettled:
            raise AssertionError("the decisions do not come to rest") from None
        finally:
            self.acting = None

    # -- trainers and kubelets -----------------------------------------------------------------------------------------

    def pick(self, pods: list[Json], index: int) -> Json | None:
        return pods[index % len(pods)] if pods else None

    @rule(index=st.integers(0, 3), node=st.sampled_from(NODES))
    def schedule(self, index: int, node: str) -> None:
        pod = self.pick([p for p in self.world.pods.values() if not p["spec"].get("nodeName")], index)
        state = self.world.nodes.get(node)
        if pod is not None and state is not None and state["powered"]:
            self.world.schedule(pod, node)

    @rule(index=st.integers(0, 3))
    def find_no_node(self, index: int) -> None:
        pod = self.pick([p for p in self.world.pods.values() if not p["spec"].get("nodeName")], index)
        if pod is not None:
            self.world.find_no_node(pod)

    @rule(index=st.integers(0, 3))
    def find_no_image(self, index: int) -> None:
        waiting = [p for p in self.world.pods.values() if self.world.process_of(p) is None and self.world.reachable(p)]
        pod = self.pick(waiting, index)
        if pod is not None:
            self.world.find_no_image(pod)

    @rule(index=st.integers(0, 3))
    def start(self, index: int) -> None:
        world = self.world
        waiting = [
            p
            for p in world.pods.values()
            if world.process_of(p) is None and world.reachable(p) and "deletionTimestamp" not in p["metadata"]
        ]
        pod = self.pick(waiting, index)
        if pod is not None:
            world.start(pod)

    @rule(index=st.integers(0, 3), steps=st.integers(0, 3), commits=st.booleans())
    def work(self, index: int, steps: int, commits: bool) -> None:
        running = list(self.world.running())
        if running:
            work(self.world, running[index % len(running)], steps, commits)

    @rule(
        index=st.integers(0, 3),
        end=st.sampled_from([(1, False, "Error"), (30, True, "Error"), (137, False, "OOMKilled"), (0, True, "Completed")]),
    )
    def end(self, index: int, end: tuple[int, bool, str]) -> None:
        running = [p for p in self.world.running() if p.claimed]
        if running:
            process, (code, word, reason) = running[index % len(running)], end
            if code == 0:
                self.world.finish(process)
            else:
                self.world.exit(process, code, word=word, reason=reason)
                if reason == "OOMKilled":
                    self.world.true_ends[process.job_uid, process.epoch] = "code 137 OOM"

    @rule(index=st.integers(0, 3))
    def somebody_deletes_a_pod(self, index: int) -> None:
        pod = self.pick(list(self.world.pods.values()), index)
        if pod is not None:
            self.world.delete(pod)

    @rule(index=st.integers(0, 3), commits=st.booleans(), seen=st.booleans())
    def reap(self, index: int, commits: bool, seen: bool) -> None:
        going = [p for p in self.world.pods.values() if "deletionTimestamp" in p["metadata"] and self.world.reachable(p)]
        pod = self.pick(going, index)
        if pod is not None:
            self.world.reap(pod, commits=commits, seen=seen)

    # -- nodes, users, time --------------------------------------------------------------------------------------------

    @rule(node=st.sampled_from(NODES), ready=st.booleans())
    def link(self, node: str, ready: bool) -> None:
        if node in self.world.nodes and self.world.nodes[node]["powered"]:
            self.world.set_ready(node, ready)

    @rule(node=st.sampled_from(NODES), removed=st.booleans())
    def machine_dies(self, node: str, removed: bool) -> None:
        if node in self.world.nodes:
            self.world.power_off(node)
            if removed:
                self.world.remove_node(node)

    @rule(node=st.sampled_from(NODES))
    def new_machine(self, node: str) -> None:
        if node in self.world.nodes and not self.world.nodes[node]["powered"]:
            self.world.remove_node(node)
        if node not in self.world.nodes:
            self.world.add_node(node)

    @rule(suspend=st.booleans())
    def suspend(self, suspend: bool) -> None:
        if JOB in self.world.jobs:
            self.world.edit_spec(self.world.jobs[JOB], suspend=suspend)

    @rule(zones=st.sampled_from([["z1"], ["z1", "z2"], ["z3"]]))
    def edit(self, zones: list[str]) -> None:
        if JOB in self.world.jobs:
            self.world.edit_spec(self.world.jobs[JOB], capacity={"instanceTypes": ["t1", "t2"], "zones": zones})

    @rule(quota=st.booleans())
    def quota(self, quota: bool) -> None:
        self.world.quota_open = quota

    @rule(seconds=st.sampled_from([1.0, 5.0, 30.0, 61.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds

    @precondition(lambda self: len(self.world.logs) < 3)
    @rule(how=st.sampled_from(["background", "foreground", "again"]))
    def delete_job(self, how: str) -> None:
        if how == "foreground" and JOB in self.world.jobs:
            self.world.delete_job_after_its_pods(JOB)
        elif how != "foreground":
            self.world.delete_job(JOB)
        if how == "again":
            self.world.add_job(JOB, dict(SPEC))

    @rule()
    def back_up(self) -> None:
        if JOB in self.world.jobs:
            self.backup = copy.deepcopy(self.world.jobs[JOB])

    @rule()
    def etcd_is_restored(self) -> None:
        """The job's record goes back; kubelets end pods that the API server has forgotten. Only the log knows what happened since."""
        job, backup = self.world.jobs.get(JOB), self.backup
        if job is None or backup is None or job["metadata"]["uid"] != backup["metadata"]["uid"]:
            return
        job["status"] = copy.deepcopy(backup.get("status", {}))
        self.world.edit_spec(job)
        known = FineTuneJobStatus.parse(job["status"])
        self.verdicts = {(job["metadata"]["uid"], a.epoch): a.verdict.value for a in known.attempts if a.verdict is not None}
        for pod in [p for p in self.world.pods.values() if epoch_of(p) > known.attempt]:
            process = self.world.process_of(pod)
            if process is not None:
                process.alive = False
            del self.world.pods[pod["metadata"]["name"]]

    @rule()
    def collect_garbage(self) -> None:
        self.world.collect_garbage()

    # -- the end -------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """I12: the faults stop, and every job comes to its end in bounded rounds; I9, I11: then nothing is left and nothing is written."""
        world = self.world
        for which, operator in enumerate(self.operators):
            if operator.looking is not None:
                self.with_acting(which, lambda op: op.run())
        world.quota_open = True
        for operator in self.operators:
            operator.view.notices.notices.clear()  # type: ignore[attr-defined]
        for node in NODES:
            self.new_machine(node)
            world.set_ready(node, True)
        self.suspend(False)
        for _ in range(80):
            for which in (0, 1):
                self.poll(which)
                self.with_acting(which, lambda op: op.run())
            world.collect_garbage()
            for pod in list(world.pods.values()):
                progress(world, pod)
            world.now += 7
            job = world.jobs.get(JOB)
            if (job is None and not world.pods) or (job is not None and phase(job).terminal and not world.pods):
                break
        else:
            raise AssertionError(f"I12: no end in 80 rounds: {world.jobs.get(JOB, {}).get('status')} {list(world.pods)}")
        before = world.writes
        for which in (0, 1, 0, 1):
            self.with_acting(which, lambda op: op.run())
        assert world.writes == before, "I11: a write although nothing changed"
        for operator in self.operators:
            operator.die()


def progress(world: World, pod: Json) -> None:
    """The way of a pod when nothing goes wrong, one step."""
    process = world.process_of(pod)
    if "deletionTimestamp" in pod["metadata"]:
        world.reap(pod, commits=True, seen=False)
    elif not pod["spec"].get("nodeName"):
        world.schedule(pod, NODES[0])
    elif process is None and pod["status"]["phase"] == "Pending":
        world.start(pod)
    elif process is not None and process.alive:
        work(world, process, 2, True)


def work(world: World, process: Process, steps: int, commits: bool) -> None:
    """A trainer goes on: claim first, then steps, then a commit, then the end."""
    if not process.claimed:
        world.claim(process)
        return
    for _ in range(steps):
        world.train(process)
    if process.step >= world.total_steps:
        world.finish(process)
    elif commits:
        world.commit(process, "interval")


def phase(job: Json) -> Phase:
    return FineTuneJobStatus.parse(job.get("status")).phase


def no_extras(model: StatusModel) -> bool:
    parts = [getattr(model, name) for name in type(model).model_fields]
    nested = [p for part in parts for p in (part if isinstance(part, tuple) else (part,)) if isinstance(p, StatusModel)]
    return not model.model_extra and all(no_extras(part) for part in nested)


WEIGHTS: dict[str, int] = {
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
    "link": 2,
    "machine_dies": 1,
    "new_machine": 2,
    "suspend": 2,
    "edit": 1,
    "quota": 2,
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
    "outcome": ("answered", "answered", "answered", "answered", "lost before", "lost after"),
    "node": NODES,
    "kind": ("Interruption", "Rebalance"),
    "left": (-400, 0, 30, 110),
    "index": (0, 1, 2),
    "steps": (0, 1, 3),
    "commits": (True, True, False),
    "seen": (True, False),
    "end": ((1, False, "Error"), (30, True, "Error"), (137, False, "OOMKilled"), (0, True, "Completed")),
    "ready": (True, True, False),
    "removed": (True, False),
    "suspend": (True, False, False),
    "quota": (True, True, False),
    "zones": (["z1"], ["z1", "z2"], ["z3"]),
    "seconds": (1.0, 5.0, 30.0, 61.0, 400.0),
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


@pytest.fixture(autouse=True)
def _no_log_lines() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("seed", range(40))
def test_the_invariants_hold_in_a_random_schedule(seed: int) -> None:
    """Always the same schedules, so that a failure is a change of ours."""
    random_schedule(seed, 120)


def test_the_invariants_hold_whatever_hypothesis_finds() -> None:
    """Shorter schedules than the random ones, but a failing one comes out as its shortest form."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        OperatorMachine,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, derandomize=True, suppress_health_check=_QUIET, database=None
        ),
    )


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_the_invariants_hold_over_a_hundred_thousand_random_steps() -> None:
    """New schedules each time; the seed of a failing one is told, for `random_schedule(seed, 200)`."""
    first = secrets.randbelow(10**9)
    for seed in range(first, first + 500):
        try:
            random_schedule(seed, 200)
        except Exception as error:
            raise AssertionError(f"random_schedule({seed}, 200) fails") from error
