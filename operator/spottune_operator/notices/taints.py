"""What the taints of a node announce: Karpenter, the AWS Node Termination Handler and the Cluster Autoscaler each put their own.

Whoever put one has begun to drain the node, or soon will. Only the handler's taints say that the machine itself is taken away; the
others do not say why a node is left (it may be for its price), so the trainer commits at once and stays until somebody ends its pod.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from spottune_operator.planner.types import Notice

_NTH = "aws-node-termination-handler"
_KINDS: Mapping[str, tuple[Literal["Interruption", "Rebalance"], str]] = {
    f"{_NTH}/spot-itn": ("Interruption", "nth"),
    f"{_NTH}/asg-lifecycle-termination": ("Interruption", "nth"),
    f"{_NTH}/rebalance-recommendation": ("Rebalance", "nth"),
    f"{_NTH}/scheduled-maintenance": ("Rebalance", "nth"),
    "karpenter.sh/disrupted": ("Rebalance", "karpenter"),
    "ToBeDeletedByClusterAutoscaler": ("Rebalance", "cluster-autoscaler"),
}
_SHUTS_OUT = ("NoSchedule", "NoExecute")


def announced(name: str, node: Mapping[str, Any]) -> Iterator[Notice]:
    """Notices about the node `name`, one for each taint that is known to announce something. They tell no deadline.

    A taint that lets new pods in (`PreferNoSchedule`) ends none: the next attempt might come back to that node, and be ended again.
    """
    for taint in (node.get("spec") or {}).get("taints") or ():
        kind, source = _KINDS.get(taint.get("key") or "", (None, ""))
        if kind is None:
            continue
        yield Notice(node=name, kind=kind if taint.get("effect") in _SHUTS_OUT else "Rebalance", source=source)
