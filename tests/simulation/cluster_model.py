"""A cluster in memory, for simulations: an API server, kubelets, nodes, trainers and the effective part of the checkpoint log.

It behaves like the real one where the operator could notice: resourceVersion conflicts, UID preconditions, graceful deletion,
pods that vanish, nodes that go silent while their pods train on, answers that are lost after the effect. Every call that an
operator makes is an awaitable `Call` that a test carries out, delays, fails or loses; nothing runs by itself and time stands still.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from spottune_contract.labels import EPOCH, JOB, POOL, TRAINER_CONTAINER
from spottune_contract.progress import CheckpointRequest, CommitView, LogView, Progress, Termination, TrainerPhase
from spottune_contract.version import CONTRACT_VERSION
from spottune_operator.cluster import AlreadyExists, Conflict, NamespaceTerminating, NotFound, QuotaExceeded, Throttled, Unavailable

Json = dict[str, Any]
Outcome = Literal["answered", "lost before", "lost after", "throttled"]


@dataclass
class Call:
    """One request of an operator, not carried out yet. Awaiting it hands it to whoever drives the coroutine."""

    name: str
    run: Callable[[], Any]

    def __await__(self) -> Generator[Call, Any, Any]:
        return (yield self)


@dataclass
class Log:
    """What the records of one job's log amount to."""

    head: int = -1
    max_epoch: int = 0
    commit: CommitView | None = None
    final: bool = False
    claims: dict[int, str] = field(default_factory=dict)
    """Pod UID by epoch: the effective claims."""

    def view(self) -> LogView:
        return LogView(head_slot=self.head, max_epoch=self.max_epoch, last_commit=self.commit, final=self.final)


@dataclass
class Process:
    """A trainer process on a node. It goes on whatever the API server believes."""

    pod_uid: str
    epoch: int
    job_uid: str
    node: str
    alive: bool = True
    claimed: bool = False
    step: int = 0
    resumed_from: int | None = None
    first_step: bool = False
    hung: bool = False
    """In the driver: no signal ends it, only the end of its machine does."""


@dataclass
class World:
    """All of it. Methods that begin with `api_` are what an operator's call does; the others are what happens by itself."""

    now: float = 1_800_000_000.0
    total_steps: int = 6
    jobs: dict[str, Json] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)
    nodes: dict[str, Json] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)
    logs: dict[str, Log] = field(default_factory=dict)
    quota_open: bool = True
    namespace_going: bool = False
    """Jobs and pods are deleted soon, and nothing new is let in."""
    writes: int = 0
    """Changes that operators made to jobs and pods; a status write that changes nothing is none."""
    created: list[tuple[str, int, str]] = field(default_factory=list)
    """Every pod ever made: owner UID, epoch, pod UID."""
    true_ends: dict[tuple[str, int], str] = field(default_factory=dict)
    """How the process of (job UID, epoch) really ended."""
    on_status: Callable[[Json, Json], None] = lambda before, after: None
    on_create: Callable[[Json], None] = lambda pod: None
    _unsaid: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    """Ends that a kubelet could not report yet, by pod UID: exit code, reason, message."""
    _version: int = 0
    _uid: int = 0

    # -- the API server ------------------------------------------------------------------------------------------------

    def api_get_job(self, name: str) -> Json:
        if name not in self.jobs:
            raise NotFound(f"job {name} not found", status=404)
        return clone(self.jobs[name])

    def api_replace_status(self, job: Json, status: Json) -> Json:
        metadata = job["metadata"]
        stored = self.jobs.get(metadata["name"])
        if stored is None:
            raise NotFound(f"job {metadata['name']} not found", status=404)
        if any(stored["metadata"][k] != metadata[k] for k in ("uid", "resourceVersion")):
            raise Conflict("the object has been modified", status=409)
        status = json.loads(json.dumps(status))
        if status != stored.get("status", {}):
            self.on_status(stored, status)
            stored["status"] = status
            self._touch(stored)
            self.writes += 1
        return clone(stored)

    def api_list_pods(self, job: str | None, node: str | None = None) -> list[Json]:
        of_job = [p for p in self.pods.values() if job in (None, p["metadata"]["labels"].get(JOB))]
        return clone([p for p in of_job if node in (None, p["spec"].get("nodeName"))])

    def api_get_pod(self, name: str) -> Json:
        if name not in self.pods:
            raise NotFound(f"pod {name} not found", status=404)
        return clone(self.pods[name])

    def api_create_pod(self, manifest: Json) -> Json:
        name = manifest["metadata"]["name"]
        if name in self.pods:
            raise AlreadyExists(f'pods "{name}" already exists', status=409)
        if self.namespace_going:
            raise NamespaceTerminating("unable to create new content: the namespace is being terminated", status=403)
        if not self.quota_open:
            raise QuotaExceeded(f'pods "{name}" is forbidden: exceeded quota: q', status=403)
        pod = json.loads(json.dumps(manifest))
        pod["metadata"] |= {"uid": self.new_uid("pod"), "creationTimestamp": self.time()}
        pod["status"] = {"phase": "Pending"}
        self._touch(pod)
        self.on_create(pod)
        self.pods[name] = pod
        self.created.append((owner(pod), epoch_of(pod), pod["metadata"]["uid"]))
        self.writes += 1
        return clone(pod)

    def api_delete_pod(self, name: str, uid: str, grace_seconds: float | None) -> None:
        pod = self.pods.get(name)
        if pod is None or pod["metadata"]["uid"] != uid:
            raise NotFound(f"pod {name} with UID {uid} not found", status=404)
        if "deletionTimestamp" not in pod["metadata"]:
            self.writes += 1
        self.delete(pod, grace_seconds)

    # -- what happens by itself ----------------------------------------------------------------------------------------

    def time(self, ahead: float = 0.0) -> str:
        return datetime.fromtimestamp(self.now + ahead, UTC).isoformat()

    def new_uid(self, kind: str) -> str:
        self._uid += 1
        return f"{kind}-{self._uid}"

    def add_job(self, name: str, spec: Json) -> Json:
        job = {"metadata": {"name": name, "namespace": "demo", "uid": self.new_uid("job"), "generation": 1}, "spec": spec}
        self._touch(job)
        self.jobs[name] = job
        self.logs[job["metadata"]["uid"]] = Log()
        return job

    def edit_spec(self, job: Json, **changes: object) -> None:
        job["spec"] |= changes
        job["metadata"]["generation"] += 1
        self._touch(job)

    def delete_job(self, name: str) -> None:
        """Background deletion, as `kubectl delete` does it: the job is gone at once, its pods when the collector comes."""
        self.jobs.pop(name, None)

    def delete_job_after_its_pods(self, name: str) -> None:
        """Foreground deletion: the job stays, marked, until the collector has ended its pods."""
        job = self.jobs[name]
        job["metadata"].setdefault("deletionTimestamp", self.time())
        self._touch(job)

    def collect_garbage(self) -> None:
        marked = {name: job["metadata"]["uid"] for name, job in self.jobs.items() if "deletionTimestamp" in job["metadata"]}
        for name, uid in marked.items():
            if not any(owner(pod) == uid for pod in self.pods.values()):
                del self.jobs[name]
        uids = {job["metadata"]["uid"] for job in self.jobs.values()} - set(marked.values())
        for pod in [p for p in self.pods.values() if owner(p) not in uids]:
            self.delete(pod)

    def add_node(self, name: str, zone: str = "z1") -> None:
        self.nodes[name] = {
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": self.time()}]},
            "powered": True,
        }

    def set_ready(self, name: str, ready: bool) -> None:
        condition = self.nodes[name]["status"]["conditions"][0]
        status = "True" if ready else "Unknown"
        if condition["status"] != status:
            condition |= {"status": status, "lastTransitionTime": self.time()}
        for pod in self.pods.values() if ready else ():
            uid = pod["metadata"]["uid"]
            if pod["spec"].get("nodeName") == name and uid in self._unsaid:
                self._say(pod, *self._unsaid.pop(uid))

    def power_off(self, name: str) -> None:
        """The machine is gone: its processes too, and nobody says so."""
        self.nodes[name]["powered"] = False
        self.set_ready(name, False)
        for process in self.processes.values():
            if process.node == name and process.alive:
                self._end(process, "killed")

    def remove_node(self, name: str) -> None:
        """The node object goes; pod garbage collection takes its pods."""
        self.power_off(name)
        del self.nodes[name]
        for pod in [p for p in self.pods.values() if p.get("spec", {}).get("nodeName") == name]:
            del self.pods[pod["metadata"]["name"]]

    def reachable(self, pod: Json) -> bool:
        node = self.nodes.get(pod["spec"].get("nodeName", ""))
        return node is not None and node["powered"] and node["status"]["conditions"][0]["status"] == "True"

    def schedule(self, pod: Json, node: str) -> None:
        pod["spec"]["nodeName"] = node
        pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]

    def find_no_node(self, pod: Json) -> None:
        pod["status"]["conditions"] = [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}
        ]

    def find_no_image(self, pod: Json) -> None:
        waiting = {"reason": "ImagePullBackOff", "message": "back-off pulling image"}
        pod["status"]["containerStatuses"] = [{"name": TRAINER_CONTAINER, "state": {"waiting": waiting}}]

    def start(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        self.processes[uid] = Process(uid, epoch_of(pod), owner(pod), pod["spec"]["nodeName"])
        pod["status"] |= {
            "phase": "Running",
            "podIP": "198.19.0.1",
            "containerStatuses": [
                {"name": TRAINER_CONTAINER, "imageID": "trainer@sha256:00", "state": {"running": {"startedAt": self.time()}}}
            ],
        }

    def claim(self, process: Process) -> None:
        """The first thing that a trainer does: take the log over, or find that it must not."""
        log = self.logs[process.job_uid]
        if log.final:
            self.exit(process, 0)
        elif process.epoch <= log.max_epoch:
            self.exit(process, 12)
        else:
            log.max_epoch = process.epoch
            log.head += 2
            assert process.epoch not in log.claims, "two pods of one epoch hold an effective claim"
            log.claims[process.epoch] = process.pod_uid
            process.claimed = True
            process.resumed_from = process.step = log.commit.step if log.commit else 0

    def train(self, process: Process) -> None:
        process.step = min(process.step + 1, self.total_steps)
        process.first_step = True

    def commit(self, process: Process, reason: str) -> bool:
        """False if the process was fenced, and ended for it."""
        log = self.logs[process.job_uid]
        if log.max_epoch != process.epoch:
            self.exit(process, 11)
            return False
        log.head += 1
        assert log.commit is None or process.step >= log.commit.step, "the lineage went back"
        log.commit = CommitView(slot=log.head, epoch=process.epoch, step=process.step, reason=reason)
        log.final = reason == "final"
        return True

    def finish(self, process: Process) -> None:
        process.step = self.total_steps
        process.first_step = True
        if self.commit(process, "final"):
            self.exit(process, 0)

    def exit(self, process: Process, code: int, *, word: bool = True, reason: str = "Error") -> None:
        """The process ends; its kubelet, if anybody can hear it, says so."""
        self._end(process, f"code {code}")
        pod = self.pod_of(process)
        if pod is None:
            return
        log = self.logs[process.job_uid]
        told = log.view() if process.claimed or code in (0, 12) else None
        message = Termination(
            contract=CONTRACT_VERSION,
            epoch=process.epoch,
            exit_code=code,
            reason="R",
            message=f"ended with {code}",
            step=process.step,
            total_steps=self.total_steps,
            first_step_at=self.now if process.first_step else 0.0,
            output="s3://adapters/x" if code == 0 else "",
            log=told,
        ).encode()
        if self.reachable(pod):
            self._say(pod, code, reason, message if word else "")
        else:
            self._unsaid[process.pod_uid] = (code, reason, message if word else "")

    def _say(self, pod: Json, code: int, reason: str, message: str) -> None:
        """The kubelet reports the end of the container."""
        pod["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
        state = pod["status"]["containerStatuses"][0]["state"]
        started = state.get("running", {}).get("startedAt", "")
        pod["status"]["containerStatuses"][0]["state"] = {
            "terminated": {"exitCode": code, "reason": reason, "message": message, "startedAt": started}
        }

    def delete(self, pod: Json, grace_seconds: float | None = None) -> None:
        """A deletion is asked for. What has no node or has ended is gone at once; anything else bears the time by which it shall be."""
        if not pod["spec"].get("nodeName") or pod["status"]["phase"] in ("Succeeded", "Failed"):
            del self.pods[pod["metadata"]["name"]]
        else:
            grace = pod["spec"]["terminationGracePeriodSeconds"] if grace_seconds is None else grace_seconds
            pod["metadata"].setdefault("deletionTimestamp", self.time(grace))

    def reap(self, pod: Json, *, commits: bool, seen: bool) -> None:
        """The kubelet ends a pod whose deletion was asked for; `seen`: its end can be read before the object is gone."""
        process = self.processes.get(pod["metadata"]["uid"])
        if process is not None and process.alive and process.hung:
            return
        if process is not None and process.alive:
            if process.claimed and commits:
                if self.commit(process, "notice"):
                    self.exit(process, 10)
            else:
                self.exit(process, 137, word=False)
            if seen:
                return
        self.pods.pop(pod["metadata"]["name"], None)

    def report(self, process: Process) -> Progress:
        """What the trainer would answer at `/progress`."""
        phase = TrainerPhase.TRAINING if process.first_step else TrainerPhase.RESTORING if process.claimed else TrainerPhase.STARTING
        return Progress(
            contract=CONTRACT_VERSION,
            job_uid=process.job_uid,
            epoch=process.epoch,
            writer="w" * 8,
            phase=phase,
            step=process.step,
            total_steps=self.total_steps if process.claimed else 0,
            loss=2.0 - process.step / 10,
            step_seconds=1.0,
            resumed_from_step=process.resumed_from,
            claimed_at=self.now if process.claimed else 0.0,
            first_step_at=self.now if process.first_step else 0.0,
            log=self.logs[process.job_uid].view() if process.claimed else None,
        )

    def pod_of(self, process: Process) -> Json | None:
        return next((p for p in self.pods.values() if p["metadata"]["uid"] == process.pod_uid), None)

    def process_of(self, pod: Json) -> Process | None:
        return self.processes.get(pod["metadata"]["uid"])

    def running(self) -> Iterator[Process]:
        return (p for p in self.processes.values() if p.alive)

    def _end(self, process: Process, how: str) -> None:
        process.alive = False
        self.true_ends[process.job_uid, process.epoch] = how

    def _touch(self, document: Json) -> None:
        self._version += 1
        document["metadata"]["resourceVersion"] = str(self._version)


class ModelCluster:
    """The operator's `Cluster` port on a `World`, as one operator sees it."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def pages_of_jobs(self) -> AsyncIterator[list[Json]]:
        result: list[Json] = await Call("list jobs", lambda: clone(list(self._world.jobs.values())))
        yield result

    async def get_job(self, namespace: str, name: str) -> Json:
        result: Json = await Call("get job", lambda: self._world.api_get_job(name))
        return result

    async def replace_status(self, job: Json, status: Json) -> Json:
        result: Json = await Call("write status", lambda: self._world.api_replace_status(job, status))
        return result

    async def list_pods(self, namespace: str | None = None, job: str | None = None, *, node: str | None = None) -> list[Json]:
        result: list[Json] = await Call("list pods", lambda: self._world.api_list_pods(job, node))
        return result

    async def pages_of_pods(self) -> AsyncIterator[list[Json]]:
        yield await self.list_pods()

    async def get_pod(self, namespace: str, name: str) -> Json:
        result: Json = await Call("get pod", lambda: self._world.api_get_pod(name))
        return result

    async def create_pod(self, manifest: Json) -> Json:
        result: Json = await Call("create pod", lambda: self._world.api_create_pod(manifest))
        return result

    async def delete_pod(self, namespace: str, name: str, *, uid: str, grace_seconds: int | None) -> None:
        assert grace_seconds is None or grace_seconds >= 1, "a pod that may train is never killed outright"
        await Call("delete pod", lambda: self._world.api_delete_pod(name, uid, grace_seconds))

    async def list_nodes(self) -> list[Json]:
        result: list[Json] = await Call("list nodes", lambda: clone(list(self._world.nodes.values())))
        return result

    async def create_event(self, event: Json) -> None:
        await Call("create event", lambda: None)

    async def patch_event(self, namespace: str, name: str, patch: Json) -> Json:
        await Call("patch event", lambda: None)
        return {}


class ModelTrainers:
    """The operator's way to trainers: requests arrive, and are only good advice."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.asked: list[CheckpointRequest] = []

    async def ask_checkpoint(self, ip: str, request: CheckpointRequest) -> None:
        await Call("ask checkpoint", lambda: self.asked.append(request))


def carry_out(call: Call, outcome: Outcome) -> Any:
    """Do what the call asks for, or refuse it, or lose it on the way there, or lose its answer on the way back."""
    if outcome == "lost before":
        raise Unavailable("connection refused")
    if outcome == "throttled":
        raise Throttled("too many requests")
    result = call.run()
    if outcome == "lost after":
        raise Unavailable("timed out")
    return result


def clone(document: Any) -> Any:
    """A copy of JSON, several times faster than `copy.deepcopy`."""
    return marshal.loads(marshal.dumps(document))


def owner(pod: Json) -> str:
    return str(pod["metadata"]["ownerReferences"][0]["uid"])


def epoch_of(pod: Json) -> int:
    return int(pod["metadata"]["labels"][EPOCH])


def pool_of(pod: Json) -> str:
    return str(pod["metadata"]["annotations"][POOL])
