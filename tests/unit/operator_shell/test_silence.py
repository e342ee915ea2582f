"""Machines that went off without a word: two witnesses, and never most of the cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from spottune_operator.cluster import ClusterError, NotFound, Unavailable
from spottune_operator.executor import Clocks
from spottune_operator.notices.board import NoticeBoard
from spottune_operator.notices.eventbridge import CloudEvent, Kind
from spottune_operator.observe import observe
from spottune_operator.planner.types import Notice, PodState
from spottune_operator.silence import LAPSED_SECONDS, NODE_LEASES, Silence, suspects
from spottune_operator.view import JobKey, PodPlace, View
from spottune_operator.workqueue import WorkQueue
from tests.fixtures.jobs import job_manifest

NOW = 1_800_000_000.0
Json = dict[str, Any]


def place(number: int, node: str = "", *, running: bool = True) -> PodPlace:
    return PodPlace(
        JobKey("demo", f"job{number}"), f"pod-{number}", node or f"n{number}", "198.19.0.7", running, leaving=False, document="{}"
    )


# -- who is suspected ---------------------------------------------------------------------------------------------------------------

HALF: list[tuple[int, int, bool]] = [
    (1, 1, True),
    (2, 2, True),
    (3, 3, True),
    (4, 2, True),
    (4, 3, False),
    (4, 4, False),
    (100, 50, True),
    (100, 51, False),
]


@pytest.mark.parametrize(("nodes", "silent", "judged"), HALF)
def test_if_most_nodes_are_silent_nobody_is_suspected_but_of_a_few_all_may_be(nodes: int, silent: int, judged: bool) -> None:
    found = suspects([place(n) for n in range(nodes)], {f"pod-{n}": NOW for n in range(silent)})
    assert found == ({f"n{n}" for n in range(silent)} if judged else set())


def test_a_node_is_silent_when_all_of_its_trainers_are() -> None:
    both = [place(1, "n"), place(2, "n"), place(3, "other")]
    assert suspects(both, {"pod-1": NOW}) == set()
    assert suspects(both, {"pod-1": NOW, "pod-2": NOW}) == {"n"}


def test_pods_that_do_not_run_yet_say_nothing() -> None:
    assert suspects([place(1, running=False)], {"pod-1": NOW}) == set()


# -- the Lease -------------------------------------------------------------------------------------------------------------------------


class Leases:
    """The Leases of the nodes, or what their reading raises."""

    def __init__(self, **ages: float | ClusterError) -> None:
        self.ages = ages
        self.asked: list[str] = []

    async def get_lease(self, namespace: str, name: str) -> Json:
        assert namespace == NODE_LEASES
        self.asked.append(name)
        age = self.ages[name]
        if isinstance(age, ClusterError):
            raise age
        return {"spec": {"renewTime": datetime.fromtimestamp(NOW - age, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}}

    async def put_lease(self, lease: Json) -> Json:
        raise AssertionError("nothing is written")


def silence(leases: Leases, *places: PodPlace, silent: tuple[str, ...]) -> tuple[Silence, View, WorkQueue[JobKey]]:
    async def look(key: JobKey) -> float | None:
        return None

    view, queue = View(), WorkQueue[JobKey](look, on_failure=lambda failed: None)
    view.pods = {(p.job.namespace, p.job.name): p for p in places}
    view.silent = dict.fromkeys(silent, NOW - 30)
    return Silence(leases, view, queue, Clocks(wall=lambda: NOW)), view, queue


@pytest.mark.parametrize(("age", "off"), [(0.0, False), (LAPSED_SECONDS - 1, False), (LAPSED_SECONDS + 1, True)])
async def test_a_node_whose_kubelet_renews_its_lease_is_on(age: float, off: bool) -> None:
    watch, view, queue = silence(Leases(n1=age), place(1), silent=("pod-1",))
    await watch.once()
    assert view.off == ({"n1"} if off else set())
    assert len(queue) == off


async def test_only_the_leases_of_silent_nodes_are_read() -> None:
    leases = Leases(n1=60.0)
    watch, view, _ = silence(leases, place(1), place(2), silent=("pod-1",))
    await watch.once()
    assert (leases.asked, view.off) == (["n1"], {"n1"})


async def test_a_node_that_is_heard_again_is_on_and_what_is_known_is_news_once() -> None:
    watch, view, queue = silence(Leases(n1=60.0), place(1), silent=("pod-1",))
    await watch.once()
    queue.forget()
    await watch.once()
    assert (view.off, len(queue)) == ({"n1"}, 0)
    view.silent.clear()
    await watch.once()
    assert view.off == set()


async def test_without_a_lease_or_an_answer_nothing_is_judged_anew() -> None:
    leases = Leases(n1=NotFound("gone"), n2=Unavailable("down"))
    watch, view, _ = silence(leases, place(1), place(2), silent=("pod-1", "pod-2"))
    await watch.once()
    assert view.off == set()
    view.off = {"n1", "n2"}
    await watch.once()
    assert view.off == {"n2"}, "no answer changes nothing; a Lease that is gone is no silence"


# -- what follows -----------------------------------------------------------------------------------------------------------------------


def running_pod() -> Json:
    metadata = {
        "name": "python-help-e1-0",
        "namespace": "demo",
        "uid": "pod-1",
        "labels": {"spottune.dev/job": "python-help", "spottune.dev/epoch": "1"},
        "ownerReferences": [{"uid": "uid", "controller": True}],
        "creationTimestamp": "2027-01-15T07:50:00Z",
    }
    status = {"phase": "Running", "containerStatuses": [{"name": "trainer", "state": {"running": {"startedAt": "2027-01-15T07:51:00Z"}}}]}
    return {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": status}


def seen(**known: Any) -> tuple[PodState, str]:
    job = job_manifest()
    job["metadata"] |= {"name": "python-help", "namespace": "demo", "uid": "uid"}
    (pod,) = observe(job, [running_pod()], {}, now=NOW, **known).pods
    assert pod.end.vanished == (pod.state is PodState.LOST)
    return pod.state, pod.machine_off


OFF = Notice("n1", "Off", "sqs", deadline=NOW - 5, instance_id="i-1")


def test_one_witness_alone_is_not_believed() -> None:
    assert seen(silent={"pod-1": NOW - 60}) == (PodState.RUNNING, "")
    assert seen(off={"n1"}) == (PodState.RUNNING, "")
    assert seen(notices=[OFF]) == (PodState.RUNNING, "")


def test_two_witnesses_are() -> None:
    state, why = seen(silent={"pod-1": NOW - 30}, off={"n1"})
    assert (state, why) == (
        PodState.LOST,
        "Node n1 is off: for 30 s its trainer has not answered, and its kubelet has not renewed its Lease.",
    )
    state, why = seen(silent={"pod-1": NOW - 3}, notices=[OFF])
    assert (state, why) == (PodState.LOST, "Machine i-1 is off (told by sqs), and its trainer does not answer.")


def test_an_end_of_the_machine_from_before_the_pod_was_made_is_about_an_earlier_life() -> None:
    earlier = Notice("n1", "Off", "sqs", deadline=NOW - 3600)
    assert seen(silent={"pod-1": NOW - 3}, notices=[earlier]) == (PodState.RUNNING, "")


@pytest.mark.parametrize(
    ("state", "kind"), [("stopped", "Off"), ("terminated", "Off"), ("stopping", "Interruption"), ("shutting-down", "Interruption")]
)
def test_only_a_state_in_which_nothing_runs_says_that_the_machine_is_off(state: str, kind: str) -> None:
    board = NoticeBoard()
    board.post(CloudEvent(Kind.STATE_CHANGE, ("i-1",), NOW, NOW, state), "sqs", NOW)
    (notice,) = board.about({"n1": {"spec": {"providerID": "aws:///us-east-1a/i-1"}}})
    assert notice.kind == kind
