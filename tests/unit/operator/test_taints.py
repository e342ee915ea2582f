"""What the taints of a node tell of its end, and what the job makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from spottune_operator.notices.taints import announced
from spottune_operator.planner.plan import plan
from spottune_operator.planner.types import AskCheckpoint, DeletePod, Notice
from tests.fixtures.observations import NOW, observed, pod, progress

KNOWN = {
    "aws-node-termination-handler/spot-itn": ("Interruption", "nth"),
    "aws-node-termination-handler/asg-lifecycle-termination": ("Interruption", "nth"),
    "aws-node-termination-handler/rebalance-recommendation": ("Rebalance", "nth"),
    "aws-node-termination-handler/scheduled-maintenance": ("Rebalance", "nth"),
    "karpenter.sh/disrupted": ("Rebalance", "karpenter"),
    "ToBeDeletedByClusterAutoscaler": ("Rebalance", "cluster-autoscaler"),
}


def tainted(key: str, effect: str = "NoSchedule") -> dict[str, Any]:
    return {"spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}, {"key": key, "effect": effect, "value": "x"}]}}


@pytest.mark.parametrize("key", KNOWN)
def test_a_taint_announces_what_its_owner_means_by_it(key: str) -> None:
    kind, source = KNOWN[key]
    assert list(announced("n1", tainted(key))) == [Notice("n1", kind, source)]  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["nvidia.com/gpu", "node.kubernetes.io/unreachable", "karpenter.sh/unregistered", ""])
def test_other_taints_announce_nothing(key: str) -> None:
    assert list(announced("n1", tainted(key))) == []


def test_a_node_without_taints_announces_nothing() -> None:
    assert list(announced("n1", {})) == list(announced("n1", {"spec": {"taints": None}})) == []


def test_a_taint_that_lets_pods_in_ends_none() -> None:
    (notice,) = announced("n1", tainted("aws-node-termination-handler/spot-itn", "PreferNoSchedule"))
    assert notice.kind == "Rebalance"


def test_a_drained_node_has_the_trainer_commit_and_stay() -> None:
    answer = plan(observed(pod(progress=progress()), notices=(Notice("n1", "Rebalance", "karpenter"),)))
    assert isinstance(answer.action, AskCheckpoint)
    assert answer.events[0].message == "Node n1 may go away soon (told by karpenter): an extra commit is made now, the pod stays."


def test_a_machine_that_is_taken_away_by_its_taint_has_the_whole_grace_and_is_heard_of_once() -> None:
    notice = Notice("n1", "Interruption", "nth")
    first = plan(observed(pod(progress=progress()), notices=(notice,)))
    assert isinstance(first.action, DeletePod)
    assert first.action.grace_seconds == 100
    assert first.action.tell is not None
    assert first.action.tell.deadline is None
    assert first.status.notice is not None
    assert first.status.notice.heard_at == NOW
    # The delete got no answer: what is written stays as it is.
    second = plan(observed(pod(progress=progress()), notices=(notice,), status=first.status, now=NOW + 7))
    assert second.action == first.action
    assert second.status == first.status
