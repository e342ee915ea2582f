"""From the API's JSON to an observation: every pod gets exactly one state."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spottune_contract.progress import Termination
from spottune_operator.observe import ERROR_LIMIT, last_words, observe, owned, read_spec
from spottune_operator.planner.plan import plan
from spottune_operator.planner.statuses import instant
from spottune_operator.planner.types import Notice, PodState
from tests.fixtures.jobs import job_manifest
from tests.fixtures.observations import NOW, progress

Json = dict[str, Any]
UID = "job-uid"
RUNNING = {"running": {"startedAt": instant(NOW - 50)}}
WAITING = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}


def node(ready: str = "True", since: float = 0.0) -> Json:
    condition = {"type": "Ready", "status": ready, "lastTransitionTime": instant(NOW - since)}
    return {"metadata": {"labels": {"topology.kubernetes.io/zone": "us-east-1a"}}, "status": {"conditions": [condition]}}


def terminated(code: int, **changes: object) -> Json:
    return {"terminated": {"exitCode": code, "reason": "Error"} | changes}


def pod(
    state: Json | None = None, *, at: str = "n1", phase: str = "Running", deleted: bool = False, overdue: float = 0.0, **status: Any
) -> Json:
    """`overdue`: seconds since the deadline that a deletion gave the pod."""
    metadata: Json = {
        "name": "python-help-e3-0",
        "uid": "pod-3",
        "creationTimestamp": instant(NOW - 60),
        "labels": {"spottune.dev/job": "python-help", "spottune.dev/epoch": "3", "spottune.dev/rank": "0"},
        "annotations": {"spottune.dev/pool": "g5.xlarge/us-east-1a/spot"},
        "ownerReferences": [{"uid": UID, "controller": True}],
    }
    if deleted:
        metadata["deletionTimestamp"] = instant(NOW - overdue)
    containers = {"containerStatuses": [{"name": "trainer", "imageID": "r@sha256:1", "state": state}]} if state else {}
    spec: Json = {"containers": [{"name": "proxy", "image": "p:1"}, {"name": "trainer", "image": "ecr.example/t:1"}]}
    return {"metadata": metadata, "spec": spec | ({"nodeName": at} if at else {}), "status": {"phase": phase} | containers | status}


def job(**changes: object) -> Json:
    manifest = job_manifest(namespace="demo")
    manifest["metadata"] |= {"uid": UID, "generation": 4} | changes
    return manifest


# What the pod says × what its node says.
STATES: dict[str, tuple[Json, Json | None, PodState]] = {
    "no node": (pod(at="", phase="Pending"), None, PodState.SCHEDULING),
    "no node and deleted": (pod(at="", phase="Pending", deleted=True), None, PodState.TERMINATING),
    "no container yet": (pod(phase="Pending"), node(), PodState.CREATING),
    "container waits": (pod(WAITING, phase="Pending"), node(), PodState.CREATING),
    "container runs": (pod(RUNNING), node(), PodState.RUNNING),
    "node unknown": (pod(RUNNING), None, PodState.RUNNING),
    "node silent for a moment": (pod(RUNNING), node("Unknown", 59), PodState.RUNNING),
    "node silent for long": (pod(RUNNING), node("Unknown", 61), PodState.LOST),
    "node not ready for long": (pod(RUNNING), node("False", 61), PodState.LOST),
    "deleted": (pod(RUNNING, deleted=True), node(), PodState.TERMINATING),
    "deleted and a little late": (pod(RUNNING, deleted=True, overdue=59), node(), PodState.TERMINATING),
    "deleted and there for long": (pod(RUNNING, deleted=True, overdue=61), node(), PodState.STUCK),
    "deleted before its container ran and there for long": (pod(WAITING, deleted=True, overdue=61), node(), PodState.STUCK),
    "without node, deleted, and held by a finalizer": (pod(at="", phase="Pending", deleted=True, overdue=61), None, PodState.STUCK),
    "deleted, there for long, and its node has gone silent": (pod(RUNNING, deleted=True, overdue=61), node("Unknown", 61), PodState.LOST),
    "container ended, the pod still there for long": (pod(terminated(10), deleted=True, overdue=999), node(), PodState.ENDED),
    "deleted on a silent node": (pod(RUNNING, deleted=True), node("Unknown", 61), PodState.LOST),
    "container ended": (pod(terminated(1)), node(), PodState.ENDED),
    "container ended and deleted": (pod(terminated(10), deleted=True), node(), PodState.ENDED),
    "container ended on a silent node": (pod(terminated(10)), node("Unknown", 61), PodState.ENDED),
    "evicted before it started": (pod(phase="Failed", reason="Evicted"), node(), PodState.ENDED),
    "failed by pod garbage collection": (pod(RUNNING, phase="Failed"), None, PodState.ENDED),
}


@pytest.mark.parametrize("case", STATES)
def test_every_pod_has_exactly_one_state(case: str) -> None:
    found, place, state = STATES[case]
    (seen,) = observe(job(), [found], {"n1": place} if place else {}, now=NOW).pods
    assert seen.state is state


def test_the_facts_of_a_pod_are_taken_over() -> None:
    (seen,) = observe(job(), [pod(RUNNING, podIP="198.19.0.7")], {"n1": node()}, now=NOW).pods
    assert (seen.epoch, seen.rank, seen.node, seen.zone, seen.ip) == (3, 0, "n1", "us-east-1a", "198.19.0.7")
    assert (seen.pool, seen.image) == ("g5.xlarge/us-east-1a/spot", "ecr.example/t@sha256:1")
    assert (seen.created_at, seen.running_at) == (NOW - 60, NOW - 50)


def test_the_last_word_of_a_trainer_is_read_and_other_text_is_kept_as_such() -> None:
    word = Termination(contract="1.0", epoch=3, exit_code=20, reason="BadModel", message="m").encode()
    (ours,) = observe(job(), [pod(terminated(20, message=word))], {}, now=NOW).pods
    assert ours.termination is not None
    assert (ours.termination.reason, ours.last_words, ours.end.exit_code) == ("BadModel", "", 20)
    (crash,) = observe(job(), [pod(terminated(1, message="Traceback\n boom"))], {}, now=NOW).pods
    assert (crash.termination, crash.last_words) == (None, "Traceback boom")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("\n \n", ""),
        ('icro_step": 0.1}}\n{"event": "commit durable", "slot": 5}\n', "The last line of its log: commit durable"),
        ('{"event": "store", "error": "EndpointConnectionError"}', "The last line of its log: store: EndpointConnectionError"),
        ('{"event": 7}\n["event"]', '{"event": 7} ["event"]'),
        ("[" * 100_000, "…" + "[" * (ERROR_LIMIT - 1)),
        ("ut at the start\n" + "  File x\n" * 100 + "RuntimeError: CUDA error\nCompile with it", None),
    ],
)
def test_the_last_words_are_the_end_of_what_a_container_said(text: str, words: str | None) -> None:
    found = last_words(text)
    assert len(found) <= ERROR_LIMIT
    if words is None:
        assert found.startswith("…")
        assert found.endswith("RuntimeError: CUDA error Compile with it")
        assert "ut at the start" not in found
    else:
        assert found == words


def test_a_word_of_another_epoch_is_not_this_ones() -> None:
    word = Termination(contract="1.0", epoch=2, exit_code=0, reason="Done", message="m").encode()
    (seen,) = observe(job(), [pod(terminated(0, message=word))], {}, now=NOW).pods
    assert seen.termination is None


@pytest.mark.parametrize("change", [{"job_uid": "other"}, {"epoch": 2}])
def test_a_report_of_another_job_or_epoch_is_not_this_ones(change: dict[str, Any]) -> None:
    report = progress().model_copy(update=change)
    (seen,) = observe(job(), [pod(RUNNING)], {}, now=NOW, progress={"pod-3": report}).pods
    assert seen.progress is None


def test_who_took_a_pod_away_is_read() -> None:
    target = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    (seen,) = observe(job(), [pod(terminated(137), phase="Failed", conditions=[target])], {}, now=NOW).pods
    assert (seen.end.exit_code, seen.end.disruption) == (137, "EvictionByEvictionAPI")


def test_a_pod_that_no_machine_can_take_says_so_in_the_schedulers_words() -> None:
    said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}
    (seen,) = observe(job(), [pod(at="", phase="Pending", conditions=[said])], {}, now=NOW).pods
    assert (seen.unschedulable, seen.placed_at) == ("0/3 nodes are available", 0.0)


def test_when_a_pod_was_given_its_node_is_known() -> None:
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2027-01-15T08:00:00Z"}
    (seen,) = observe(job(), [pod(RUNNING, conditions=[placed])], {}, now=NOW).pods
    assert seen.placed_at == 1_800_000_000.0


FOREIGN: dict[str, dict[str, Any]] = {
    "another owner": {"ownerReferences": [{"uid": "old-job", "controller": True}]},
    "no owner": {"ownerReferences": []},
    "owner but not controller": {"ownerReferences": [{"uid": UID}]},
    "another job's label": {"labels": {"spottune.dev/job": "x", "spottune.dev/epoch": "3"}},
    "no epoch": {"labels": {"spottune.dev/job": "python-help"}},
    "an epoch that is no number": {"labels": {"spottune.dev/job": "python-help", "spottune.dev/epoch": "²"}},
    "no labels": {"labels": None},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_pods_are_not_seen(case: str) -> None:
    foreign = pod(RUNNING)
    foreign["metadata"] |= FOREIGN[case]
    assert not owned(foreign, UID, "python-help")
    assert observe(job(), [foreign], {}, now=NOW).pods == ()


def test_notices_about_other_nodes_are_not_seen() -> None:
    notices = [Notice("n1", "Interruption", "sqs"), Notice("n2", "Interruption", "sqs")]
    assert observe(job(), [pod(RUNNING)], {}, now=NOW, notices=notices).notices == (notices[0],)


def test_only_taints_of_nodes_with_a_pod_of_the_job_are_seen() -> None:
    tainted = node() | {"spec": {"taints": [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]}}
    seen = observe(job(), [pod(RUNNING)], {"n1": tainted, "n2": tainted}, now=NOW)
    assert [(notice.node, notice.source) for notice in seen.notices] == [("n1", "karpenter")]


def test_a_job_under_deletion_is_seen_as_such() -> None:
    assert observe(job(deletionTimestamp=instant(NOW)), [], {}, now=NOW).deleting


def test_a_wrong_spec_names_the_field() -> None:
    spec, error = read_spec(job_manifest(spec__method={"rank": 0, "typo": 1})["spec"])
    assert spec is None
    assert "spec.method.rank" in error
    assert "spec.method.typo" in error


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=12,
)
FIELDS = ["phase", "attempt", "accounted", "step", "conditions", "attempts", "pools", "notice", "log", "lastCommit", "podUid", "x"]


@given(spec=json_values, status=st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6))
def test_whatever_stands_in_a_job_the_planner_has_an_answer(spec: object, status: Json) -> None:
    seen = observe(job() | {"spec": spec, "status": status}, [pod(RUNNING)], {"n1": node()}, now=NOW)
    assert plan(seen).rule
