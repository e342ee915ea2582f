"""The world of one job and its two operators as Hypothesis drives it, with the design's invariants after every step.

Each call of an operator is carried out, delayed, lost on its way or lost on its way back; between any two calls the world may
change, and an operator may die. When the faults stop, every job must come to its end.
"""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spottune_operator.api.reasons import Phase
from spottune_operator.api.v1alpha1 import STATUS_LIMIT, FineTuneJobStatus, PoolStatus, StatusModel
from spottune_operator.executor import Unsettled
from spottune_operator.planner.statuses import size
from spottune_operator.planner.types import Notice
from tests.simulation.cluster_model import Json, Outcome, Process, World, epoch_of, owner
from tests.simulation.operator_process import JOB, NODES, POOLS, SPEC, TOTAL_STEPS, Operator


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
        retried = old.phase is Phase.FAILED and new.phase is Phase.PENDING and new.retry_token != old.retry_token
        assert not old.phase.terminal or new.phase is old.phase or retried, f"{old.phase} is final"
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
            if owner(p) == owner(pod)
            and epoch_of(p) < epoch_of(pod)
            and p["metadata"]["uid"] in acting.live_before
            and not self.hands_over(p)
        ]
        still = [p for p in older if dict(acting.liveness()).get(p["metadata"]["uid"])]
        assert not still, "I4: an older pod may still train"

    def hands_over(self, pod: Json) -> bool:
        """It was asked to end, and its job lets the next attempt start meanwhile."""
        job = self.world.jobs.get(JOB)
        handover = FineTuneJobStatus.parse(job.get("status")).handover if job is not None else None
        return handover is not None and handover.epoch == epoch_of(pod) and "deletionTimestamp" in pod["metadata"]

    @invariant()
    def one_claim_per_epoch(self) -> None:
        for log in self.world.logs.values():
            assert list(log.claims) == sorted(log.claims), "I1"

    # -- operators -----------------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), looks=st.integers(1, 4))
    def look(self, which: int, looks: int) -> None:
        for _ in range(looks):
            self.with_acting(which, lambda op: op.run())

    @rule(which=st.integers(0, 1), outcome=st.sampled_from(["answered", "answered", "answered", "lost before", "lost after", "throttled"]))
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

    @rule(which=st.integers(0, 1), pool=st.sampled_from(POOLS), seconds=st.sampled_from([1.0, 30.0, 400.0]), interrupted=st.booleans())
    def other_jobs_have_trouble(self, which: int, pool: str, seconds: float, interrupted: bool) -> None:
        """Whatever an operator has heard of pools by other jobs: it may be wrong, and it may last until the end."""
        trouble = PoolStatus(pool=pool, failures=1, **{"avoid_until" if interrupted else "not_before": self.world.now + seconds})
        view = self.operators[which].view
        view.pools = (*(state for state in view.pools if state.pool != pool), trouble)

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

    @rule(index=st.integers(0, 3), deleted=st.booleans())
    def driver_hangs(self, index: int, deleted: bool) -> None:
        """No signal reaches a process any more; `deleted`: that was when somebody wanted its end."""
        running = list(self.world.running())
        if not running:
            return
        process = running[index % len(running)]
        process.hung = True
        pod = self.world.pod_of(process)
        if deleted and pod is not None:
            self.world.delete(pod)

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

    @rule()
    def cancel(self) -> None:
        if JOB in self.world.jobs:
            self.world.edit_spec(self.world.jobs[JOB], cancel=True)

    @rule(limit=st.sampled_from([10, 100, 10_000]))
    def limit_duration(self, limit: int) -> None:
        if JOB in self.world.jobs:
            self.world.edit_spec(self.world.jobs[JOB], maxDuration=f"{limit}s")

    @rule()
    def retry(self) -> None:
        """A token that was never there before."""
        if JOB in self.world.jobs:
            job = self.world.jobs[JOB]
            self.world.edit_spec(job, retryToken=f"t{job['metadata']['generation']}")

    @rule(handover=st.sampled_from(["Warm", "Warm", "Cold"]), rebalance=st.sampled_from(["Stay", "Move"]))
    def go_onward(self, handover: str, rebalance: str) -> None:
        if JOB in self.world.jobs:
            self.world.edit_spec(self.world.jobs[JOB], handover=handover, onRebalance=rebalance)

    @rule(zones=st.sampled_from([["z1"], ["z1", "z2"], ["z3"]]))
    def edit(self, zones: list[str]) -> None:
        if JOB in self.world.jobs:
            self.world.edit_spec(self.world.jobs[JOB], capacity={"instanceTypes": ["t1", "t2"], "zones": zones})

    @rule(quota=st.booleans())
    def quota(self, quota: bool) -> None:
        self.world.quota_open = quota

    @rule()
    def namespace_is_deleted(self) -> None:
        self.world.namespace_going = True

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
        """I12: the faults stop, and every job comes to its end in bounded rounds; I9, I11: then nothing is left but what
        no kubelet can end, and nothing is written."""
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
            left = [pod for pod in world.pods.values() if not stuck(world, pod)]
            if not left and (job is None or (phase(job).terminal and not retry_is_due(job))):
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


def stuck(world: World, pod: Json) -> bool:
    """Nobody can do more for its end."""
    process = world.process_of(pod)
    return "deletionTimestamp" in pod["metadata"] and process is not None and process.alive and process.hung


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


def retry_is_due(job: Json) -> bool:
    """A failed job whose token was changed meanwhile is over for no longer than until the next look."""
    status, token = FineTuneJobStatus.parse(job.get("status")), job["spec"].get("retryToken", "")
    return status.phase is Phase.FAILED and not job["spec"].get("cancel") and token not in ("", status.retry_token)


def no_extras(model: StatusModel) -> bool:
    parts = [getattr(model, name) for name in type(model).model_fields]
    nested = [p for part in parts for p in (part if isinstance(part, tuple) else (part,)) if isinstance(p, StatusModel)]
    return not model.model_extra and all(no_extras(part) for part in nested)
