"""What EKS's cloud controller does for nodes: a Node that is not ready and whose instance no longer exists is deleted.

So the pods of a machine that lost its power are told to go seconds after the node is found dead, whatever they tolerate. The Node itself
stays until Karpenter has given its pods up, about three minutes after the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from localcloud.home import Home
from localcloud.nodeapi import control_plane, is_ready, request

INTERVAL_SECONDS = 5.0
"""How often the cloud controller looks (its `--node-monitor-period`)."""


def orphans(nodes: Iterable[Mapping[str, Any]], existing: Collection[str], static: Collection[str]) -> list[str]:
    """Names of the Node objects to delete. Pure.

    `existing` holds the ids of all instances that are not terminated; `static` the names of nodes that never had one.
    """
    found: list[str] = []
    for body in nodes:
        name = body["metadata"]["name"]
        instance_id = body["spec"].get("providerID", "").rpartition("/")[2]
        leaving = "deletionTimestamp" in body["metadata"]
        if instance_id and instance_id not in existing and name not in static and not leaving and not is_ready(body):
            found.append(name)
    return found


def collect(home: Home, existing: Callable[[], Collection[str]], static: Collection[str]) -> list[str]:
    """Deletes the orphaned Node objects and returns their names. Raises `NodeError` when the API server refuses."""
    plane = control_plane(home)
    nodes = (request(plane, "GET", "/api/v1/nodes") or {}).get("items", [])
    # Instances are looked up after the nodes: one that was launched in between must not be taken for gone.
    names = orphans(nodes, existing(), static)
    for name in names:
        request(plane, "DELETE", f"/api/v1/nodes/{name}")
    return names
