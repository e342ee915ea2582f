"""What the operator remembers between two looks: nodes, pods' addresses, trainers' reports, notices, refused creates.

All of it can be lost: a restart fills it again from the cluster, or does without. Decisions about pods never come from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from spottune_contract.labels import JOB
from spottune_contract.progress import Progress
from spottune_operator.api.v1alpha1 import PoolStatus
from spottune_operator.notices.board import NoticeBoard
from spottune_operator.planner.types import Obstacle

Json = dict[str, Any]


class JobKey(NamedTuple):
    """A job's address; also the key of the work queue."""

    namespace: str
    name: str


@dataclass(frozen=True)
class PodPlace:
    """Where a trainer pod is, for finding trainers and for finding the jobs of a node."""

    job: JobKey
    uid: str
    node: str
    ip: str
    running: bool


@dataclass
class View:
    """Memory shared by the loops of one operator."""

    nodes: dict[str, Json] = field(default_factory=dict)
    pods: dict[tuple[str, str], PodPlace] = field(default_factory=dict)
    """By namespace and pod name."""
    progress: dict[str, Progress] = field(default_factory=dict)
    """Latest report by pod UID."""
    silent: dict[str, float] = field(default_factory=dict)
    """Running trainers that did not answer when they were last asked, by pod UID: since when (wall clock seconds)."""
    off: set[str] = field(default_factory=set)
    """Nodes of which neither trainers nor kubelet are heard; see `silence`."""
    obstacles: dict[str, Obstacle] = field(default_factory=dict)
    """Why the last create was refused, by job UID."""
    notices: NoticeBoard = field(default_factory=NoticeBoard)
    pools: tuple[PoolStatus, ...] = ()
    """Trouble of pools, as the statuses of all jobs told at the last resync."""

    def put_node(self, node: Json) -> None:
        self.nodes[node["metadata"]["name"]] = slim_node(node)

    def put_pod(self, pod: Json) -> JobKey | None:
        """Remember where a pod is. Returns its job, or None for a pod without our label."""
        metadata, status = pod["metadata"], pod.get("status") or {}
        name = (metadata.get("labels") or {}).get(JOB)
        if not name:
            return None
        job = JobKey(metadata["namespace"], name)
        self.pods[metadata["namespace"], metadata["name"]] = PodPlace(
            job=job,
            uid=metadata["uid"],
            node=(pod.get("spec") or {}).get("nodeName", ""),
            ip=status.get("podIP", ""),
            running=status.get("phase") == "Running",
        )
        return job

    def drop_pod(self, namespace: str, name: str, uid: str) -> None:
        place = self.pods.get((namespace, name))
        if place is not None and place.uid == uid:
            del self.pods[namespace, name]
            self.progress.pop(uid, None)
            self.silent.pop(uid, None)

    def replace(self, pods: Iterable[Json], nodes: Iterable[Json], job_uids: Iterable[str]) -> None:
        """Take over a complete live list; what is not in it is forgotten."""
        self.nodes = {node["metadata"]["name"]: slim_node(node) for node in nodes}
        self.pods = {}
        for pod in pods:
            self.put_pod(pod)
        uids = {place.uid for place in self.pods.values()}
        self.progress = {uid: report for uid, report in self.progress.items() if uid in uids}
        self.silent = {uid: since for uid, since in self.silent.items() if uid in uids}
        known = set(job_uids)
        self.obstacles = {uid: obstacle for uid, obstacle in self.obstacles.items() if uid in known}

    def forget_reports(self) -> None:
        """What trainers and the API server told in an earlier term: another operator may have acted on newer words since."""
        self.progress.clear()
        self.silent.clear()
        self.off.clear()
        self.obstacles.clear()

    def jobs_on(self, node: str) -> set[JobKey]:
        """Jobs that have a pod on `node`."""
        return {place.job for place in self.pods.values() if place.node == node}


def slim_node(node: Json) -> Json:
    """The parts of a node that anybody here looks at: images and addresses of a thousand nodes are megabytes."""
    metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    kept = ("name", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
    return {
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "spec": {name: spec[name] for name in ("providerID", "taints", "unschedulable") if name in spec},
        "status": {"conditions": status.get("conditions") or []},
    }
