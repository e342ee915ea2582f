"""Kubernetes events about jobs: built, told and counted here and nowhere else.

The sentences come with the plan. An event's name is made of its job and its content, so that telling the same thing again counts
up one object instead of making another, whichever operator tells it. An event that cannot be told is dropped: no decision reads one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from spottune_contract.labels import API_VERSION, GROUP, KIND
from spottune_operator import logs
from spottune_operator.cluster import AlreadyExists, Cluster, ClusterError
from spottune_operator.metrics import Metrics
from spottune_operator.planner.types import EventSpec

Json = dict[str, Any]

COMPONENT = "spottune-operator"
MESSAGE_LIMIT = 1024
"""The API server refuses longer messages."""
_NAME_LIMIT = 253

_log = logs.get(__name__)


def event_name(job: str, uid: str, spec: EventSpec) -> str:
    """Deterministic name of the event object: the same job, reason and message give the same object."""
    content = "\x00".join((uid, spec.type, spec.reason, spec.message))
    digest = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:16]
    return f"{job[: _NAME_LIMIT - 17]}.{digest}"


def event_object(job: Json, spec: EventSpec, at: str) -> Json:
    """The event as the API server takes it. `at` is RFC 3339. Pure."""
    metadata = job["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(metadata["name"], metadata["uid"], spec), "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": f"{GROUP}/{API_VERSION}",
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "type": spec.type,
        "reason": spec.reason.value,
        "message": spec.message[:MESSAGE_LIMIT],
        "source": {"component": COMPONENT},
        "reportingComponent": f"{GROUP}/operator",
        "reportingInstance": COMPONENT,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }


class Teller:
    """Tells events, after the status write they belong to."""

    def __init__(self, cluster: Cluster, metrics: Metrics, wall: Callable[[], float]) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._wall = wall

    async def tell(self, job: Json, specs: Iterable[EventSpec]) -> None:
        """Tell each; failures are logged and counted, never raised."""
        for spec in specs:
            try:
                outcome = await self._one(job, spec)
            except ClusterError as error:
                outcome = type(error).__name__
                _log.warning("event not told", reason=spec.reason.value, error=str(error))
            self._metrics.events.labels(outcome).inc()

    async def _one(self, job: Json, spec: EventSpec) -> str:
        at = datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = event_object(job, spec, at)
        try:
            await self._cluster.create_event(event)
        except AlreadyExists:
            namespace, name = event["metadata"]["namespace"], event["metadata"]["name"]
            # The operator may not read events; the answer to a patch tells the count all the same.
            known = await self._cluster.patch_event(namespace, name, {"lastTimestamp": at})
            await self._cluster.patch_event(namespace, name, {"count": int(known.get("count") or 1) + 1})
            return "counted"
        return "told"
