"""One look at a time: the status is written first and only if unchanged, then at most one effect, then events."""

from __future__ import annotations

from typing import Any

import pytest

from spottune_contract.env import RunEnv
from spottune_contract.labels import EPOCH, JOB
from spottune_contract.progress import CheckpointRequest
from spottune_operator import executor as module
from spottune_operator.allowance import Allowance
from spottune_operator.cluster import (
    AdmissionDenied,
    Conflict,
    NamespaceTerminating,
    QuotaExceeded,
    ReferenceMissing,
    RightsMissing,
    Unavailable,
)
from spottune_operator.executor import AT_ONCE, Clocks, Executor, Unsettled
from spottune_operator.manifests import TrainerDefaults
from spottune_operator.metrics import Metrics
from spottune_operator.notices.eventbridge import CloudEvent, Kind
from spottune_operator.planner.types import ObstacleKind, Plan, Settings
from spottune_operator.trainers import Unreachable
from spottune_operator.view import JobKey, View, slim_node
from tests.fixtures.memory_cluster import MemoryCluster
from tests.fixtures.observations import progress

KEY = JobKey("demo", "job")


class SilentTrainers:
    """Nobody answers; what was asked is kept."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, CheckpointRequest]] = []

    async def ask_checkpoint(self, ip: str, request: CheckpointRequest) -> None:
        self.asked.append((ip, request))
        raise Unreachable("no answer")


class Setup:
    """An executor on a cluster in memory, and a clock that a test moves."""

    def __init__(self) -> None:
        self.cluster, self.trainers, self.view, self.metrics = MemoryCluster(), SilentTrainers(), View(), Metrics()
        self.now = 1_800_000_000.0
        self.executor = Executor(
            self.cluster,
            self.trainers,  # type: ignore[arg-type]
            self.view,
            defaults=TrainerDefaults(cluster="test", image="trainer:1"),
            settings=Settings(cluster="test"),
            metrics=self.metrics,
            clocks=Clocks(wall=lambda: self.now, monotonic=lambda: self.now),
        )

    async def settle(self, most: int = 20) -> float | None:
        """Look until there is nothing to do at once."""
        for _ in range(most):
            again = await self.executor.look(KEY)
            if again != AT_ONCE:
                return again
        raise AssertionError("does not settle")

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.cluster.jobs[KEY]["status"]
        return status

    def node(self, name: str, instance: str) -> None:
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        node = {
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "us-east-1a"}},
            "spec": {"providerID": f"aws:///us-east-1a/{instance}"},
            "status": {"conditions": [ready]},
        }
        self.cluster.nodes[name] = node
        self.view.nodes[name] = slim_node(node)

    def remember(self) -> None:
        """All that there is has been heard of."""
        for job in self.cluster.jobs.values():
            self.view.put_job(job)
        for pod in self.cluster.pods.values():
            self.view.put_pod(pod)

    def run_pod(self, name: str, node: str) -> None:
        started = {"name": "trainer", "state": {"running": {"startedAt": "2027-01-15T08:00:00Z"}}, "imageID": ""}
        self.cluster.set_pod_status(name, {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [started]}, node)


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_the_attempt_is_persisted_before_its_pod_exists(setup: Setup) -> None:
    setup.cluster.add_job("job")
    await setup.executor.look(KEY)
    assert setup.cluster.writes[:2] == ["status", "create"]
    assert setup.status()["attempt"] == 1
    await setup.settle()
    assert list(setup.cluster.pods) == [("demo", "job-e1-0")]


async def test_the_status_tells_the_place_of_the_log_that_the_pod_is_told(setup: Setup) -> None:
    setup.cluster.add_job("job")
    await setup.settle()
    [container] = setup.cluster.pods["demo", "job-e1-0"]["spec"]["containers"]
    told = RunEnv.from_environ({v["name"]: v["value"] for v in container["env"] if "value" in v})
    assert setup.status()["log"]["location"] == str(told.location)


async def test_at_rest_a_look_writes_nothing_and_the_resync_sees_that_without_a_call(setup: Setup) -> None:
    setup.cluster.add_job("job")
    await setup.settle()
    setup.cluster.calls.clear()
    await setup.settle()
    assert setup.cluster.writes == []
    setup.cluster.calls.clear()
    jobs, pods = list(setup.cluster.jobs.values()), list(setup.cluster.pods.values())
    assert setup.executor.due(jobs[0], pods) != AT_ONCE
    assert setup.cluster.calls == []


async def test_a_job_of_which_nothing_new_is_known_costs_no_call(setup: Setup) -> None:
    setup.cluster.add_job("job")
    await setup.settle()
    setup.remember()
    setup.cluster.calls.clear()
    assert await setup.executor.consider(KEY) is None
    assert setup.cluster.calls == []
    setup.cluster.jobs[KEY]["spec"]["suspend"] = True
    assert await setup.executor.consider(KEY) is None, "not heard of yet"
    setup.remember()
    assert await setup.executor.consider(KEY) == AT_ONCE
    assert setup.cluster.writes == ["status", "delete job-e1-0 100", "event Suspended"]


async def test_what_is_remembered_never_has_anything_done(setup: Setup) -> None:
    """The pod is remembered as gone and the job as running: the look finds both as they are, and rests."""
    setup.cluster.add_job("job")
    await setup.settle()
    setup.node("n1", "i-1")
    setup.run_pod("job-e1-0", "n1")
    await setup.settle()
    setup.remember()
    setup.view.drop_pod("demo", "job-e1-0", setup.cluster.pods["demo", "job-e1-0"]["metadata"]["uid"])
    setup.cluster.calls.clear()
    assert await setup.executor.consider(KEY) is None
    assert setup.cluster.calls == ["get job", "list pods"]


@pytest.mark.parametrize("case", ["unknown", "doubted", "unfinished"])
async def test_a_job_is_looked_at_live_if_memory_does_not_count(setup: Setup, case: str) -> None:
    setup.cluster.add_job("job")
    if case == "unfinished":
        assert await setup.executor.look(KEY) == AT_ONCE
        setup.remember()
    else:
        await setup.settle()
    if case == "doubted":
        setup.remember()
        setup.view.doubted.add(KEY)
    setup.cluster.calls.clear()
    await setup.executor.consider(KEY)
    assert setup.cluster.calls[:2] == ["get job", "list pods"]
    assert setup.view.doubted == set()


async def test_after_a_mere_write_that_leaves_nothing_to_do_nothing_is_read_again(setup: Setup) -> None:
    setup.cluster.add_job("job")
    await setup.settle()
    setup.node("n1", "i-1")
    setup.run_pod("job-e1-0", "n1")
    setup.cluster.calls.clear()
    assert await setup.executor.look(KEY) is None
    assert setup.cluster.calls == ["get job", "list pods", "status"]
    assert await setup.settle() is None
    assert setup.cluster.writes == ["status"]


async def test_steps_alone_are_written_only_as_often_as_all_jobs_together_may(setup: Setup) -> None:
    setup.cluster.add_job("job")
    await setup.settle()
    setup.node("n1", "i-1")
    setup.run_pod("job-e1-0", "n1")
    [pod], [job] = setup.cluster.pods.values(), setup.cluster.jobs.values()

    async def told(step: int) -> int:
        setup.view.progress[pod["metadata"]["uid"]] = progress(job_uid=job["metadata"]["uid"], epoch=1, step=step)
        setup.now += 11
        await setup.settle()
        return int(setup.status()["step"])

    setup.view.steps = Allowance(0.1)
    assert await told(21) == 21, "the first words are news"
    setup.view.pressed = lambda: True
    assert await told(22) == 21, "others wait for a look"
    setup.view.pressed = lambda: False
    assert await told(22) == 22
    setup.view.steps.per_second = 0.0
    assert await told(23) == 22
    setup.cluster.jobs[KEY]["spec"]["suspend"] = True
    assert await told(24) == 24, "with other news"


async def test_who_loses_the_status_race_does_nothing(setup: Setup) -> None:
    setup.cluster.add_job("job")
    setup.cluster.refuse["status"] = [Conflict("changed")]
    assert await setup.executor.look(KEY) == module.CONFLICT_PAUSE
    assert setup.cluster.pods == {}
    assert setup.cluster.events == {}


async def test_a_status_write_that_may_have_failed_is_followed_by_nothing(setup: Setup) -> None:
    setup.cluster.add_job("job")
    setup.cluster.refuse["status"] = [Unavailable("no answer")]
    with pytest.raises(Unavailable):
        await setup.executor.look(KEY)
    assert setup.cluster.writes == ["status"]


async def test_a_create_whose_answer_was_lost_is_found_done(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.cluster.add_job("job")
    create = setup.cluster.create_pod

    async def lost(manifest: dict[str, Any]) -> dict[str, Any]:
        await create(manifest)
        raise Unavailable("no answer")

    monkeypatch.setattr(setup.cluster, "create_pod", lost)
    await setup.settle()
    assert setup.cluster.writes.count("create") == 1
    assert list(setup.cluster.pods) == [("demo", "job-e1-0")]
    assert (setup.status()["attempt"], setup.status()["phase"]) == (1, "Starting")


@pytest.mark.parametrize("error", [Unavailable('failed calling webhook "w"', status=500), Unavailable("no answer")], ids=["500", "silence"])
async def test_a_create_that_fails_again_and_again_is_told_until_it_works(setup: Setup, error: Unavailable) -> None:
    setup.cluster.add_job("job")
    setup.cluster.refuse["create"] = [error] * 3
    phases = []
    while not setup.cluster.pods:
        again = await setup.settle()
        told = next(c for c in setup.status()["conditions"] if c["type"] == "CapacityAvailable")
        phases.append((setup.status()["phase"], told["reason"]))
        setup.now += again or 0
    assert phases == [("Starting", "AttemptStarted"), *[("Waiting", "PodCreateFails")] * 2, ("Starting", "PodCreateFails")]
    assert error.message in told["message"]
    assert [event["reason"] for event in setup.cluster.events.values()].count("PodCreateFails") == 1
    setup.node("n1", "i-0a")
    setup.run_pod("job-e1-0", "n1")
    await setup.settle()
    told = next(c for c in setup.status()["conditions"] if c["type"] == "CapacityAvailable")
    assert (told["status"], told["reason"], setup.status()["phase"]) == ("True", "Scheduled", "Starting")
    assert (setup.status()["attempt"], setup.status().get("failures", 0), setup.view.obstacles) == (1, 0, {})


@pytest.mark.parametrize(
    ("change", "ours"),
    [
        ({}, True),
        ({"ownerReferences": []}, False),
        ({"ownerReferences": [{"uid": "uid-1", "controller": False}]}, False),
        ({"labels": {JOB: "job", EPOCH: "2"}}, False),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, False),
    ],
)
async def test_a_pod_of_the_right_name_is_ours_only_by_owner_epoch_and_life(setup: Setup, change: dict[str, Any], ours: bool) -> None:
    job = setup.cluster.add_job("job")
    owner = {"uid": job["metadata"]["uid"], "controller": True}
    metadata = {"name": "job-e1-0", "namespace": "demo", "labels": {JOB: "job", EPOCH: "1"}, "ownerReferences": [owner]}
    await setup.cluster.create_pod({"metadata": metadata | change, "spec": {}})
    setup.cluster.pods["demo", "job-e1-0"]["metadata"] |= change
    observed = module.observe(job, [], {}, now=setup.now)
    action = module.CreatePod("job-e1-0", 1, 0, "*/*/spot", min_slot=0)
    assert await setup.executor._create(observed, action) == ("adopted" if ours else ObstacleKind.NAME_TAKEN.value)
    assert (job["metadata"]["uid"] in setup.view.obstacles) is not ours


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (QuotaExceeded("exceeded quota: q"), ObstacleKind.QUOTA),
        (ReferenceMissing("no such account"), ObstacleKind.MISSING),
        (AdmissionDenied("violates PodSecurity"), ObstacleKind.DENIED),
        (NamespaceTerminating("terminating"), ObstacleKind.TERMINATING),
    ],
)
async def test_a_refused_create_is_remembered_with_the_servers_words_and_spends_nothing(
    setup: Setup, error: Any, kind: ObstacleKind
) -> None:
    job = setup.cluster.add_job("job")
    setup.cluster.refuse["create"] = [error]
    await setup.executor.look(KEY)
    obstacle = setup.view.obstacles[job["metadata"]["uid"]]
    assert (obstacle.kind, obstacle.epoch, obstacle.message, obstacle.count) == (kind, 1, error.message, 1)
    await setup.settle()
    assert setup.status().get("failures", 0) == 0
    phase = setup.status()["phase"]
    assert phase == {ObstacleKind.DENIED: "Failed", ObstacleKind.TERMINATING: "Cancelled"}.get(kind, "Waiting")


async def test_quota_is_tried_again_and_then_forgotten(setup: Setup) -> None:
    setup.cluster.add_job("job")
    setup.cluster.refuse["create"] = [QuotaExceeded("exceeded quota: q")] * 3
    for _ in range(8):
        again = await setup.settle()
        setup.now += again or 0
    assert list(setup.cluster.pods) == [("demo", "job-e1-0")]
    assert setup.view.obstacles == {}


async def test_missing_rights_are_no_jobs_fault(setup: Setup) -> None:
    setup.cluster.add_job("job")
    setup.cluster.refuse["create"] = [RightsMissing("cannot create")]
    with pytest.raises(RightsMissing):
        await setup.executor.look(KEY)
    assert setup.view.obstacles == {}
    await setup.settle()
    assert list(setup.cluster.pods) == [("demo", "job-e1-0")]


async def test_a_job_that_is_gone_is_left_alone(setup: Setup) -> None:
    assert await setup.executor.look(KEY) is None
    assert setup.cluster.writes == []


async def test_no_effect_follows_if_the_job_changed_since_it_was_read(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between intent and create the job is deleted: a look that finds the intent persisted must ask once more before it acts."""
    setup.cluster.add_job("job")
    setup.cluster.refuse["create"] = [Unavailable("no answer")]
    await setup.executor.look(KEY)
    setup.now += 3
    real = setup.cluster.list_pods

    async def deleted_meanwhile(namespace: str, job: str) -> list[dict[str, Any]]:
        pods = await real(namespace, job)
        setup.cluster.jobs.clear()
        return pods

    monkeypatch.setattr(setup.cluster, "list_pods", deleted_meanwhile)
    await setup.executor.look(KEY)
    assert setup.cluster.pods == {}


async def test_on_a_notice_the_trainer_is_told_first_and_its_pod_ends_in_the_time_that_is_left(setup: Setup) -> None:
    setup.node("n1", "i-12345678")
    setup.cluster.add_job("job")
    await setup.settle()
    setup.run_pod("job-e1-0", "n1")
    await setup.settle()
    event = CloudEvent(Kind.SPOT_INTERRUPTION, ("i-12345678",), setup.now, setup.now + 60, "terminate")
    setup.view.notices.post(event, "sqs", setup.now)
    await setup.settle()
    ((ip, request),) = setup.trainers.asked
    assert (ip, request.deadline) == ("10.0.0.1", setup.now + 60)
    (deleted,) = [call for call in setup.cluster.calls if call.startswith("delete")]
    grace = int(deleted.split()[-1])
    assert 50 <= grace < 60
    setup.view.notices.post(event, "sqs", setup.now)
    await setup.settle()
    assert len([call for call in setup.cluster.calls if call.startswith("delete")]) == 1


@pytest.mark.parametrize(("told", "asked"), [("the same", 0), ("another deadline", 1)])
async def test_what_the_trainer_was_told_already_it_is_not_told_again(setup: Setup, told: str, asked: int) -> None:
    setup.node("n1", "i-12345678")
    setup.cluster.add_job("job")
    await setup.settle()
    setup.run_pod("job-e1-0", "n1")
    await setup.settle()
    uid = setup.cluster.pods["demo", "job-e1-0"]["metadata"]["uid"]
    deadline = setup.now + (60 if told == "the same" else 90)
    setup.view.told[uid] = CheckpointRequest(source="sqs", deadline=deadline)
    event = CloudEvent(Kind.SPOT_INTERRUPTION, ("i-12345678",), setup.now, setup.now + 60, "terminate")
    setup.view.notices.post(event, "sqs", setup.now)
    await setup.settle()
    assert len(setup.trainers.asked) == asked
    assert len([call for call in setup.cluster.calls if call.startswith("delete")]) == 1


async def test_events_are_told_after_the_status_and_the_same_one_is_counted(setup: Setup) -> None:
    setup.cluster.add_job("job")
    await setup.settle()
    writes = setup.cluster.writes
    assert writes.index("status") < next(i for i, call in enumerate(writes) if call.startswith("event"))
    spec = module.EventSpec("Warning", module.Reason.INTERNAL, "again")
    job = setup.cluster.jobs[KEY]
    for _ in range(3):
        await setup.executor._teller.tell(job, [spec])
    (event,) = [event for event in setup.cluster.events.values() if event["message"] == "again"]
    assert event["count"] == 3


async def test_an_event_that_cannot_be_told_stops_nothing(setup: Setup) -> None:
    setup.cluster.add_job("job")
    setup.cluster.refuse["event"] = [RightsMissing("no")] * 5
    await setup.settle()
    assert list(setup.cluster.pods) == [("demo", "job-e1-0")]


async def test_decisions_that_do_not_come_to_rest_are_set_aside(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.cluster.add_job("job")

    def restless(observed: Any) -> Plan:
        return Plan("restless", observed.status.model_copy(update={"step": observed.status.step + 1}))

    monkeypatch.setattr(module, "plan", restless)
    for _ in range(module.MOST_LOOKS_AT_ONCE):
        assert await setup.executor.look(KEY) == AT_ONCE
    with pytest.raises(Unsettled):
        await setup.executor.look(KEY)
