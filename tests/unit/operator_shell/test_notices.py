"""From a message to a look: what reaches the board, what is counted and forgotten, what the planner is shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from spottune_contract.progress import CheckpointRequest
from spottune_operator.cluster import Unavailable
from spottune_operator.executor import AT_ONCE, CONFLICT_PAUSE
from spottune_operator.metrics import Metrics
from spottune_operator.notices.board import KEPT_SECONDS, NoticeBoard, instance_of
from spottune_operator.notices.desk import SKEW_SECONDS, STALE_SECONDS, NoticeDesk
from spottune_operator.notices.eventbridge import CloudEvent, Kind
from spottune_operator.notices.sqs import Rejected, TooEarly
from spottune_operator.planner.types import Notice
from spottune_operator.trainers import Unreachable
from spottune_operator.view import JobKey, View
from spottune_operator.workqueue import WorkQueue
from tests.fixtures.memory_cluster import MemoryCluster

NOW = 1772366400.0
INSTANCE = "i-0b662ef9931388ba0"
OTHER = "i-0123456789abcdef0"


def node(name: str, instance: str) -> dict[str, Any]:
    metadata = {"name": name, "uid": name, "resourceVersion": "1", "labels": {}}
    return {"metadata": metadata, "spec": {"providerID": f"aws:///us-east-1a/{instance}"}, "status": {"conditions": []}}


def pod(job: str, node_name: str) -> dict[str, Any]:
    metadata = {"name": f"{job}-e1-0", "namespace": "demo", "uid": f"uid-{job}", "labels": {"spottune.dev/job": job}}
    return {"metadata": metadata, "spec": {"nodeName": node_name}, "status": {"phase": "Running", "podIP": "10.0.0.1"}}


def spot(instance: str = INSTANCE, **fields: Any) -> str:
    detail = {"instance-id": instance, "instance-action": "terminate"}
    base = {"source": "aws.ec2", "detail-type": "EC2 Spot Instance Interruption Warning", "time": "2026-03-01T12:00:00Z"}
    return json.dumps({**base, "region": "us-east-1", "detail": detail, **fields})


def scheduled(*instances: str) -> str:
    entities = [{"entityValue": instance} for instance in instances]
    detail = {"service": "EC2", "eventTypeCategory": "scheduledChange", "eventTypeCode": "x", "startTime": "Sun, 1 Mar 2026 13:00:00 GMT"}
    base = {"source": "aws.health", "detail-type": "AWS Health Event", "time": "2026-03-01T12:00:00Z", "region": "us-east-1"}
    return json.dumps({**base, "detail": {**detail, "affectedEntities": entities}})


class ListeningTrainers:
    """Keeps what is asked; does not answer while `deaf`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, CheckpointRequest]] = []
        self.deaf = False

    async def ask_checkpoint(self, ip: str, request: CheckpointRequest) -> None:
        if self.deaf:
            raise Unreachable("no answer")
        self.asked.append((ip, request))


class Setup:
    """A desk with one of our nodes, one job on it, one job elsewhere, and a queue that records its looks."""

    def __init__(self) -> None:
        self.cluster, self.view, self.metrics, self.looked = MemoryCluster(), View(), Metrics(), list[JobKey]()
        self.trainers = ListeningTrainers()
        self.now = NOW + 5
        self.view.listed_at = NOW + SKEW_SECONDS
        self.view.put_node(node("n1", INSTANCE))
        self.view.put_pod(pod("here", "n1"))
        self.view.put_pod(pod("there", "n2"))
        self.answers: list[float | None] = []
        self.acts: Callable[[], Any] = lambda: None
        """What each look does."""
        self.queue = WorkQueue[JobKey](self._look)
        self.desk = NoticeDesk(
            self.cluster,
            self.trainers,  # type: ignore[arg-type]
            self.view,
            self.queue,
            self.metrics,
            region="us-east-1",
            wall=lambda: self.now,
        )

    async def _look(self, key: JobKey) -> float | None:
        self.looked.append(key)
        self.acts()
        return self.answers.pop(0) if self.answers else None

    async def handle(self, body: str) -> None:
        running = asyncio.create_task(self.queue.run())
        try:
            await self.desk.handle(body)
        finally:
            running.cancel()

    def count(self, kind: str) -> float:
        return float(self.metrics.registry.get_sample_value("spottune_notices_total", {"source": "sqs", "kind": kind}) or 0)


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_a_notice_for_a_node_of_ours_has_its_jobs_looked_at_before_it_counts_as_handled(setup: Setup) -> None:
    await setup.handle(spot())
    assert set(setup.looked) == {JobKey("demo", "here")}
    assert setup.view.notices.about(setup.view.nodes) == (
        Notice("n1", "Interruption", "sqs", NOW + 120, INSTANCE, announced_at=NOW, heard_at=NOW + 5),
    )


@pytest.mark.parametrize("busy", [AT_ONCE, CONFLICT_PAUSE])
async def test_a_notice_is_handled_when_the_job_has_come_to_rest_not_when_a_look_was_spent_on_something_else(
    setup: Setup, busy: float
) -> None:
    setup.answers = [busy, busy, 5.0]
    await setup.handle(spot())
    assert setup.answers == []


async def test_a_notice_is_handled_once_its_pod_has_been_asked_to_end_whatever_the_job_does_after_that(setup: Setup) -> None:
    """The next attempt needs the notice no more; the other notices of a storm wait for their turn."""
    setup.answers = [AT_ONCE] * 10
    setup.acts = lambda: setup.view.pod_leaves("demo", "here-e1-0", "uid-here")
    await setup.handle(spot())
    assert len(setup.answers) >= 8, "one look, and what the queue has begun by itself meanwhile"


async def test_a_pod_that_somebody_has_ended_already_is_looked_at_once_so_that_the_notice_is_known(setup: Setup) -> None:
    leaving = pod("here", "n1")
    leaving["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:01Z"
    setup.cluster.pods["demo", "here-e1-0"] = leaving
    setup.answers = [AT_ONCE] * 10
    await setup.handle(spot())
    assert len(setup.answers) >= 8, "one look, and what the queue has begun by itself meanwhile"


async def test_the_end_of_another_pod_of_that_name_or_elsewhere_does_not_count(setup: Setup) -> None:
    setup.answers = [AT_ONCE, AT_ONCE, 5.0]
    setup.acts = lambda: [
        setup.view.pod_leaves("demo", "here-e1-0", "uid-before"),
        setup.view.pod_leaves("demo", "there-e1-0", "uid-there"),
    ]
    await setup.handle(spot())
    assert setup.answers == []


async def test_jobs_with_a_notice_are_looked_at_before_all_others(setup: Setup) -> None:
    for number in range(100):
        setup.queue.add(JobKey("demo", f"other-{number}"))
    await setup.handle(spot())
    assert setup.looked[0] == JobKey("demo", "here")


async def test_the_trainers_on_the_machine_are_told_at_once_and_once_though_the_api_server_gives_no_answer(setup: Setup) -> None:
    setup.cluster.refuse["list"] = [Unavailable("no answer")] * 2
    for _ in range(2):
        with pytest.raises(Unavailable):
            await setup.handle(spot())
    assert setup.trainers.asked == [("10.0.0.1", CheckpointRequest(source="sqs", deadline=NOW + 120))]


async def test_a_trainer_that_did_not_listen_is_told_again_with_the_next_delivery(setup: Setup) -> None:
    setup.trainers.deaf = True
    await setup.handle(spot())
    assert setup.view.told == {}
    setup.trainers.deaf = False
    await setup.handle(spot())
    assert len(setup.trainers.asked) == 1
    assert setup.view.told == {"uid-here": CheckpointRequest(source="sqs", deadline=NOW + 120)}
    setup.view.drop_pod("demo", "here-e1-0", "uid-here")
    assert setup.view.told == {}, "kept no longer than the pod"


@pytest.mark.parametrize("change", [{"status": {"phase": "Pending"}}, {"metadata": {"deletionTimestamp": "2026-03-01T12:00:01Z"}}])
async def test_nobody_is_told_ahead_who_does_not_run_yet_or_was_asked_to_end_already(setup: Setup, change: dict[str, Any]) -> None:
    document = pod("here", "n1")
    for name, fields in change.items():
        document[name] |= fields
    setup.view.put_pod(document)
    await setup.handle(spot())
    assert setup.trainers.asked == []


async def test_a_recommendation_and_a_deadline_that_has_passed_are_left_to_the_planner(setup: Setup) -> None:
    await setup.handle(scheduled(INSTANCE))
    setup.now = NOW + 121
    await setup.handle(spot())
    assert setup.trainers.asked == []
    assert len(setup.view.notices) == 2


async def test_a_job_whose_pod_no_watch_has_told_of_yet_is_looked_at_too(setup: Setup) -> None:
    """A process that was stopped after a create does not know where that pod went; the message must not be deleted unheard."""
    for job, name in (("here", "n1"), ("new", "n1"), ("elsewhere", "n2")):
        setup.cluster.pods["demo", f"{job}-e1-0"] = pod(job, name)
    await setup.handle(spot())
    assert set(setup.looked) == {JobKey("demo", "here"), JobKey("demo", "new")}


async def test_a_notice_is_not_handled_when_nobody_can_say_whose_pods_are_there(setup: Setup) -> None:
    setup.cluster.refuse["list"] = [Unavailable("no answer")]
    with pytest.raises(Unavailable):
        await setup.handle(spot())
    assert set(setup.looked) == {JobKey("demo", "here")}, "whoever is known is looked at nevertheless"


async def test_f6_the_same_notice_five_times_is_one_notice(setup: Setup) -> None:
    for _ in range(5):
        await setup.handle(spot())
    assert len(setup.view.notices) == 1


async def test_f8_f68_a_notice_for_a_machine_that_is_none_of_our_nodes_leaves_only_a_count(setup: Setup) -> None:
    await setup.handle(spot("i-00000000000000000"))
    assert (setup.looked, len(setup.view.notices), setup.count("NoSuchNode")) == ([], 0, 1)
    await setup.handle(spot(region="eu-west-1"))
    assert (setup.looked, len(setup.view.notices), setup.count("ForeignRegion")) == ([], 0, 1)


async def test_a_machine_that_no_list_younger_than_its_notice_has_shown_may_be_a_node_so_the_message_is_left(setup: Setup) -> None:
    """Who has just started, or was stopped while a node came up, does not know it; this may be its only notice."""
    setup.view.listed_at = NOW + SKEW_SECONDS - 0.1
    with pytest.raises(TooEarly, match=OTHER):
        await setup.handle(spot(OTHER))
    assert (setup.looked, setup.count("NoSuchNode")) == ([], 0)
    setup.view.put_node(node("n2", OTHER))
    await setup.handle(spot(OTHER))
    assert set(setup.looked) == {JobKey("demo", "there")}


async def test_of_several_machines_those_that_are_known_are_seen_to_before_the_message_is_left_for_the_others(setup: Setup) -> None:
    setup.view.listed_at = float("-inf")
    with pytest.raises(TooEarly, match=OTHER):
        await setup.handle(scheduled(INSTANCE, OTHER))
    assert set(setup.looked) == {JobKey("demo", "here")}


async def test_f67_history_is_not_acted_upon(setup: Setup) -> None:
    setup.now = NOW + 120 + STALE_SECONDS + 1
    await setup.handle(spot())
    assert (setup.looked, setup.count("Stale")) == ([], 1)


async def test_an_unknown_event_is_counted_and_done_with(setup: Setup) -> None:
    await setup.handle(json.dumps({"source": "aws.ec2", "detail-type": "Something New", "time": "", "detail": {}}))
    assert setup.count("UnknownDetailType") == 1


async def test_f69_poison_is_left_for_the_dead_letter_queue(setup: Setup) -> None:
    with pytest.raises(Rejected):
        await setup.handle("[" * 100_000)
    assert setup.count("Malformed") == 1


@pytest.mark.parametrize(
    ("kind", "shown"), [(Kind.REBALANCE, "Rebalance"), (Kind.SCHEDULED_CHANGE, "Rebalance"), (Kind.STATE_CHANGE, "Interruption")]
)
def test_only_what_ends_the_machine_soon_is_an_interruption(kind: Kind, shown: str) -> None:
    board = NoticeBoard()
    board.post(CloudEvent(kind, (INSTANCE,), NOW, None, "x"), "sqs", NOW)
    (notice,) = board.about({"n1": node("n1", INSTANCE)})
    assert notice.kind == shown


def test_the_board_keeps_no_more_than_its_most_and_finds_by_machine_whatever_it_has_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spottune_operator.notices.board.MOST", 3)
    board, nodes = NoticeBoard(), {"n1": node("n1", INSTANCE), "n2": node("n2", OTHER)}
    for second, instance in enumerate((INSTANCE, OTHER, INSTANCE, OTHER, OTHER)):
        board.post(CloudEvent(Kind.SPOT_INTERRUPTION, (instance,), NOW, NOW + 120 + second, "x"), "sqs", NOW + second)
    assert sorted((notice.node, notice.deadline - NOW) for notice in board.about(nodes)) == [("n1", 122), ("n2", 123), ("n2", 124)]
    board.expire(NOW + KEPT_SECONDS + 2.5)
    assert [notice.node for notice in board.about(nodes)] == ["n2", "n2"]
    board.expire(NOW + KEPT_SECONDS + 9)
    assert (len(board), board.about(nodes)) == (0, ())


def test_the_board_shows_only_live_nodes_and_forgets() -> None:
    board = NoticeBoard()
    board.post(CloudEvent(Kind.REBALANCE, (INSTANCE,), NOW, None, "x"), "sqs", NOW)
    assert board.about({"n2": node("n2", "i-00000000")}) == ()
    board.expire(NOW + KEPT_SECONDS + 1)
    assert board.about({"n1": node("n1", INSTANCE)}) == ()


@pytest.mark.parametrize(
    ("provider", "instance"), [("aws:///us-east-1a/i-12345678", "i-12345678"), ("kind://docker/x/y", ""), ("", ""), (None, "")]
)
def test_only_aws_nodes_have_an_instance(provider: str | None, instance: str) -> None:
    assert instance_of({"spec": {"providerID": provider}}) == instance
