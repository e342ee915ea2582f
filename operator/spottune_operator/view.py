"""What the operator remembers between two looks: jobs, pods and nodes as last heard of, trainers' reports, notices, refused creates.

All of it can be lost: a restart fills it again from the cluster, or does without. It says whether a job is worth a look; what a
look decides, and whatever it does, rests on what is read live. Ten thousand jobs and their pods fit: kept is only what a decision
may depend on, as JSON text, which takes a tenth of the room of the objects that it is made of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from sys import intern
from typing import Any, Literal, NamedTuple

from spottune_contract.labels import JOB, POOL, TRAINER_CONTAINER
from spottune_contract.progress import CheckpointRequest, Progress
from spottune_operator.allowance import Allowance
from spottune_operator.api.v1alpha1 import FineTuneJobStatus, PoolStatus
from spottune_operator.notices.board import NoticeBoard
from spottune_operator.planner.types import Obstacle

STEP_WRITES_PER_SECOND = 20.0
"""Of all jobs together; each of 5,000 is written about every four minutes, each of 200 every ten seconds."""

Json = dict[str, Any]
Kind = Literal["job", "pod", "node"]
Key = tuple[str, str, str]
"""Kind, namespace (empty for nodes) and name."""


class JobKey(NamedTuple):
    """A job's address; also the key of the work queue."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class KnownJob:
    """A job as last heard of."""

    uid: str
    document: str
    """What `slim_job` leaves of it, as JSON."""
    phase: str
    trouble: tuple[PoolStatus, ...]
    """Pools to stay away from, as its status says."""
    machines: tuple[tuple[str, str], ...]
    """Pool and time of each machine that its attempts have got."""


@dataclass(frozen=True, slots=True)
class PodPlace:
    """A trainer pod as last heard of."""

    job: JobKey
    uid: str
    node: str
    ip: str
    running: bool
    leaving: bool
    """Somebody asked for its end."""
    document: str
    """What `slim_pod` leaves of it, as JSON."""


@dataclass
class View:
    """Memory shared by the loops of one operator."""

    nodes: dict[str, Json] = field(default_factory=dict)
    listed_at: float = float("-inf")
    """When the last complete live list began (wall clock seconds): what was there then is known, or gone."""
    jobs: dict[JobKey, KnownJob] = field(default_factory=dict)
    pods: dict[tuple[str, str], PodPlace] = field(default_factory=dict)
    """By namespace and pod name."""
    progress: dict[str, Progress] = field(default_factory=dict)
    """Latest report by pod UID."""
    silent: dict[str, float] = field(default_factory=dict)
    """Running trainers that did not answer when they were last asked, by pod UID: since when (wall clock seconds)."""
    told: dict[str, CheckpointRequest] = field(default_factory=dict)
    """What trainers were told ahead of the look that decides about them, by pod UID."""
    off: set[str] = field(default_factory=set)
    """Nodes of which neither trainers nor kubelet are heard; see `silence`."""
    obstacles: dict[str, Obstacle] = field(default_factory=dict)
    """Why the last create was refused, by job UID."""
    notices: NoticeBoard = field(default_factory=NoticeBoard)
    pools: tuple[PoolStatus, ...] = ()
    """Trouble of pools, as the statuses of all jobs told at the last resync."""
    doubted: set[JobKey] = field(default_factory=set)
    """Jobs whose next look shall be live whatever is remembered of them."""
    heard: set[Key] = field(default_factory=set)
    """What the watch told of since the live list under way was begun: newer than that list."""
    steps: Allowance = field(default_factory=lambda: Allowance(STEP_WRITES_PER_SECOND))
    """Status writes that tell of steps and losses alone."""
    pressed: Callable[[], bool] = lambda: False
    """Whether jobs wait for a look: what is urgent must not wait behind steps."""
    _pods_of: dict[JobKey, tuple[str, ...]] = field(default_factory=dict)

    def tells_steps(self, now: float) -> bool:
        """Whether steps and losses alone are worth a status write now (monotonic seconds)."""
        return self.steps.left(now) and not self.pressed()

    def job(self, key: JobKey) -> Json | None:
        known = self.jobs.get(key)
        return json.loads(known.document) if known is not None else None

    def pods_of(self, key: JobKey) -> list[Json]:
        return [json.loads(self.pods[key.namespace, name].document) for name in self._pods_of.get(key, ())]

    def put_job(self, job: Json) -> bool:
        """Remember a job. False if nothing has changed that a decision may depend on."""
        key = JobKey(intern(job["metadata"]["namespace"]), intern(job["metadata"]["name"]))
        slim = slim_job(job)
        document = _packed(slim)
        known = self.jobs.get(key)
        if known is not None and known.document == document:
            return False
        if known is not None and known.uid != job["metadata"]["uid"]:
            self.drop_job(key)
        status = slim["status"] if isinstance(slim["status"], dict) else {}
        phase = status.get("phase")
        self.jobs[key] = KnownJob(
            uid=job["metadata"]["uid"],
            document=document,
            phase=intern(phase) if isinstance(phase, str) else "Pending",
            trouble=FineTuneJobStatus.parse({"pools": status["pools"]}).pools if status.get("pools") else (),
            machines=tuple(_machines(status.get("attempts"))),
        )
        return True

    def drop_job(self, key: JobKey) -> None:
        known = self.jobs.pop(key, None)
        if known is not None:
            self.obstacles.pop(known.uid, None)

    def put_node(self, node: Json) -> None:
        self.nodes[node["metadata"]["name"]] = slim_node(node)

    def put_pod(self, pod: Json) -> JobKey | None:
        """Remember a pod. Returns its job if something has changed that a decision may depend on, and None for a pod without our label."""
        metadata, status = pod["metadata"], pod.get("status") or {}
        name = (metadata.get("labels") or {}).get(JOB)
        if not name:
            return None
        job, where = JobKey(intern(metadata["namespace"]), intern(name)), (intern(metadata["namespace"]), metadata["name"])
        document = _packed(slim_pod(pod))
        known = self.pods.get(where)
        if known is not None and known.document == document:
            return None
        if known is not None and known.uid != metadata["uid"]:
            self.drop_pod(*where, known.uid)
        self.pods[where] = PodPlace(
            job=job,
            uid=metadata["uid"],
            node=intern((pod.get("spec") or {}).get("nodeName") or ""),
            ip=status.get("podIP") or "",
            running=status.get("phase") == "Running",
            leaving="deletionTimestamp" in metadata,
            document=document,
        )
        names = self._pods_of.get(job, ())
        if where[1] not in names:
            self._pods_of[job] = (*names, where[1])
        return job

    def drop_pod(self, namespace: str, name: str, uid: str) -> JobKey | None:
        """Forget a pod. Returns its job; None if another pod has that name now, or none."""
        place = self.pods.get((namespace, name))
        if place is None or place.uid != uid:
            return None
        del self.pods[namespace, name]
        self.progress.pop(uid, None)
        self.silent.pop(uid, None)
        self.told.pop(uid, None)
        left = tuple(other for other in self._pods_of[place.job] if other != name)
        if left:
            self._pods_of[place.job] = left
        else:
            del self._pods_of[place.job]
        return place.job

    def pod_leaves(self, namespace: str, name: str, uid: str) -> None:
        """Note that the API server has accepted the pod's end; what the watch tells of it comes later."""
        place = self.pods.get((namespace, name))
        if place is not None and place.uid == uid:
            self.pods[namespace, name] = replace(place, leaving=True)

    def stays(self, key: JobKey, nodes: Collection[str]) -> bool:
        """Whether the job has a pod on one of `nodes` of which nobody has asked for the end."""
        places = (self.pods[key.namespace, name] for name in self._pods_of.get(key, ()))
        return any(place.node in nodes and not place.leaving for place in places)

    def forget_reports(self) -> None:
        """What trainers and the API server told in an earlier term: another operator may have acted on newer words since."""
        self.progress.clear()
        self.silent.clear()
        self.told.clear()
        self.off.clear()
        self.obstacles.clear()

    def pods_on(self, node: str) -> list[PodPlace]:
        return [place for place in self.pods.values() if place.node == node]

    def jobs_on(self, node: str) -> set[JobKey]:
        """Jobs that have a pod on `node`."""
        return {place.job for place in self.pods_on(node)}


class Listing:
    """Takes over a complete live list, page by page. What the watch tells meanwhile is newer than the list, and stays."""

    def __init__(self, view: View, changed: set[JobKey]) -> None:
        """`changed` gets the jobs of which, or of whose pods, the list shows something that the watch has not told."""
        self._view = view
        self._changed = changed
        self.versions: dict[Key, str] = {}
        view.heard.clear()

    def jobs(self, page: Iterable[Json]) -> None:
        for job in page:
            key = JobKey(job["metadata"]["namespace"], job["metadata"]["name"])
            if self._news("job", *key, job) and self._view.put_job(job):
                self._changed.add(key)

    def pods(self, page: Iterable[Json]) -> None:
        for pod in page:
            if self._news("pod", pod["metadata"]["namespace"], pod["metadata"]["name"], pod):
                job = self._view.put_pod(pod)
                if job is not None:
                    self._changed.add(job)

    def nodes(self, page: Iterable[Json]) -> None:
        for node in page:
            if self._news("node", "", node["metadata"]["name"], node):
                self._view.put_node(node)

    def close(self) -> None:
        """All pages were taken over: what is in none of them is gone."""
        view, there = self._view, self.versions.keys() | self._view.heard
        for key in [key for key in view.jobs if ("job", *key) not in there]:
            view.drop_job(key)
        for (namespace, name), place in [(where, place) for where, place in view.pods.items() if ("pod", *where) not in there]:
            view.drop_pod(namespace, name, place.uid)
            self._changed.add(place.job)
        for name in [name for name in view.nodes if ("node", "", name) not in there]:
            del view.nodes[name]

    def _news(self, kind: Kind, namespace: str, name: str, item: Json) -> bool:
        self.versions[kind, namespace, name] = item["metadata"]["resourceVersion"]
        return (kind, namespace, name) not in self._view.heard


def slim_job(job: Json) -> Json:
    """The parts of a job that a decision may depend on."""
    metadata = job["metadata"]
    kept = ("name", "namespace", "uid", "generation", "deletionTimestamp")
    return {"metadata": {name: metadata[name] for name in kept if name in metadata}, "spec": job.get("spec"), "status": job.get("status")}


def slim_pod(pod: Json) -> Json:
    """The parts of a pod that a decision may depend on."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    kept = ("name", "namespace", "uid", "labels", "ownerReferences", "creationTimestamp", "deletionTimestamp")
    annotations = {POOL: metadata["annotations"][POOL]} if POOL in (metadata.get("annotations") or {}) else {}
    containers = [{"name": c["name"], "image": c.get("image")} for c in spec.get("containers") or () if c.get("name") == TRAINER_CONTAINER]
    conditions = [
        {name: c.get(name) for name in ("type", "status", "reason", "message", "lastTransitionTime")}
        for c in status.get("conditions") or ()
    ]
    trainers = [c for c in status.get("containerStatuses") or () if c.get("name") == TRAINER_CONTAINER]
    states = [{name: c.get(name) for name in ("name", "state", "imageID")} for c in trainers]
    slim_status = {name: status[name] for name in ("phase", "reason", "podIP") if name in status}
    return {
        "metadata": {name: metadata[name] for name in kept if name in metadata} | {"annotations": annotations},
        "spec": {"nodeName": spec.get("nodeName"), "containers": containers},
        "status": slim_status | {"conditions": conditions, "containerStatuses": states},
    }


def slim_node(node: Json) -> Json:
    """The parts of a node that anybody here looks at: images and addresses of a thousand nodes are megabytes."""
    metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    kept = ("name", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
    return {
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "spec": {name: spec[name] for name in ("providerID", "taints", "unschedulable") if name in spec},
        "status": {"conditions": status.get("conditions") or []},
    }


def _packed(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def _machines(attempts: object) -> Iterable[tuple[str, str]]:
    """Whatever stands in a status that somebody else may have written: what is no attempt with a machine is left out."""
    for attempt in attempts if isinstance(attempts, list) else ():
        if isinstance(attempt, dict):
            pool, since = attempt.get("pool"), attempt.get("runningAt")
            if isinstance(pool, str) and isinstance(since, str):
                yield intern(pool), since
