"""Hollow machines and jobs at scale: what kubelets would write is written, nothing runs.

Thousands of jobs are not led through their beginnings one by one. One is, by the operator itself, and its status and pod are the
pattern for all others: if the pattern were wrong, the operator would write, and the figures of idleness would show it.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from benchmarks.operator.api import PODS, Api, Json, at_once, jobs_in, pods_in
from benchmarks.operator.etcd import AT_ONCE, job_key, lease_key, pod_key
from benchmarks.operator.installation import Installation, Operator
from benchmarks.operator.trainers import Trainers, address
from spottune_contract.labels import API_VERSION, EPOCH, GROUP, JOB, KIND, TRAINER_CONTAINER, pod_name
from spottune_operator.silence import NODE_LEASES
from spottune_operator.tasks import cancelled

NODES = 20
RENEW_SECONDS = 10.0
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NODE_LEASES}/leases"
PER_NAMESPACE = 250
_PATTERN, _PATTERN_NAMESPACE = "pattern-of-all-jobs", "pattern-of-all-namespaces"
_IMAGE = f"spottune.local/trainer@sha256:{'a' * 64}"


@dataclass(frozen=True)
class Job:
    """One of many, and its pod, as they were made."""

    number: int
    namespace: str
    name: str
    uid: str
    pod_uid: str
    _job: str
    _pod: str

    @property
    def job(self) -> Json:
        document: Json = json.loads(self._job)
        return document

    @property
    def pod(self) -> Json:
        document: Json = json.loads(self._pod)
        return document

    @property
    def key(self) -> str:
        return job_key(self.namespace, self.name)

    @property
    def pod_key(self) -> str:
        return pod_key(self.namespace, pod_name(self.name, 1))

    @property
    def pod_path(self) -> str:
        return f"{pods_in(self.namespace)}/{pod_name(self.name, 1)}"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def manifest(name: str) -> Json:
    return {
        "apiVersion": f"{GROUP}/{API_VERSION}",
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "s3://models/smollm2"},
            "dataset": {"source": "s3://data/train.jsonl"},
            "training": {"maxSteps": 60, "globalBatchSize": 8, "microBatchSize": 2},
            "checkpoint": {"storage": "s3://checkpoints/team"},
            "output": {"destination": "s3://adapters/python-help"},
        },
    }


def container(state: Json, *, started: bool) -> Json:
    """Status of the trainer's container as a kubelet writes it."""
    words = {"name": TRAINER_CONTAINER, "state": state, "ready": started, "started": started, "restartCount": 0}
    return words | {"image": "spottune.local/trainer:dev", "imageID": _IMAGE}


def running(ip: str) -> Json:
    ready = [{"type": kind, "status": "True", "lastTransitionTime": now()} for kind in ("Initialized", "Ready", "ContainersReady")]
    state = container({"running": {"startedAt": now()}}, started=True)
    return {"phase": "Running", "conditions": ready, "podIP": ip, "podIPs": [{"ip": ip}], "containerStatuses": [state]}


@asynccontextmanager
async def machines(where: Installation, count: int = NODES) -> AsyncIterator[None]:
    """Nodes that are ready and stay so: their Leases are renewed as often as by a kubelet, past the API server that is measured."""
    api = where.api
    leases: dict[str, Json] = {}

    async def add(name: str) -> None:
        labels = {
            "kubernetes.io/hostname": name,
            "node.kubernetes.io/instance-type": "g5.xlarge",
            "topology.kubernetes.io/zone": "us-east-1a",
            "karpenter.sh/capacity-type": "spot",
        }
        await api.call(
            "POST",
            "/api/v1/nodes",
            {
                "metadata": {"name": name, "labels": labels},
                "spec": {"providerID": f"aws:///us-east-1a/{instance(int(name.rpartition('-')[2]))}"},
            },
        )
        room = {"cpu": "100000", "memory": "1000Ti", "pods": "100000", "ephemeral-storage": "1000Ti"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now(), "lastTransitionTime": now()}
        await api.call("PATCH", f"/api/v1/nodes/{name}/status", {"status": {"capacity": room, "allocatable": room, "conditions": [ready]}})
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": _micro()}
        leases[name] = await api.call("POST", LEASES, {"metadata": {"name": name}, "spec": spec})

    async def beat() -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            spec = {"renewTime": _micro()}
            renewed = [(lease_key(NODE_LEASES, name), lease | {"spec": lease["spec"] | spec}) for name, lease in leases.items()]
            await where.etcd.put(renewed)

    names = [f"hollow-{number}" for number in range(count)]
    await at_once([partial(add, name) for name in names])
    beating = asyncio.create_task(beat())
    for name in names:
        while (await api.call("GET", f"/api/v1/nodes/{name}"))["spec"].get("taints"):
            await asyncio.sleep(0.1)
    try:
        yield
    finally:
        await cancelled([beating])


def _micro() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Kubelets:
    """Runs every pod that was placed on a node, and lets go of every one that was deleted, at once."""

    def __init__(self, api: Api, trainers: Trainers, first: int) -> None:
        self._api, self._trainers = api, trainers
        self._number = first
        self._started: set[str] = set()
        self.ended: dict[str, float] = {}
        """When each pod's end was first heard of, when a kubelet sends SIGTERM (wall clock seconds), by its address."""
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def at_work(cls, api: Api, trainers: Trainers, first: int = 0) -> AsyncIterator[Kubelets]:
        """`first`: number of the first address that is free."""
        kubelets = cls(api, trainers, first)
        watching = asyncio.create_task(kubelets._watch())
        try:
            yield kubelets
        finally:
            await cancelled([watching, *kubelets._tasks])

    async def _watch(self) -> None:
        async for kind, pod in self._api.watch(f"{PODS}"):
            if kind != "DELETED" and pod["spec"].get("nodeName") and JOB in pod["metadata"].get("labels", {}):
                task = asyncio.create_task(self._one(pod))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _one(self, pod: Json) -> None:
        metadata = pod["metadata"]
        path = f"{pods_in(metadata['namespace'])}/{metadata['name']}"
        if "deletionTimestamp" in metadata:
            self.ended.setdefault(pod["status"].get("podIP", ""), time.time())
            await self._api.call("DELETE", path, {"gracePeriodSeconds": 0}, missing_ok=True)
        elif metadata["uid"] not in self._started and pod["status"].get("phase") == "Pending":
            self._started.add(metadata["uid"])
            ip = address(self._number)
            self._number += 1
            owner = metadata["ownerReferences"][0]["uid"]
            await asyncio.to_thread(self._trainers.tell, {ip: (owner, int(metadata["labels"][EPOCH]))})
            await self._api.call("PATCH", f"{path}/status", {"status": running(ip)}, missing_ok=True)


@asynccontextmanager
async def crowd(where: Installation, trainers: Trainers, count: int, alone: int = 0) -> AsyncIterator[list[Job]]:
    """So many jobs, each with its pod running on one of the machines, as the operator leaves them when nothing happens.

    The first `alone` of them have a machine for themselves.
    """
    async with machines(where, NODES + alone):
        namespaces = await _namespaces(where.api, -(-count // PER_NAMESPACE))
        pattern = await _pattern(where, trainers)
        # In a thread: the machines have to be heard of all the while.
        jobs = await asyncio.to_thread(lambda: [_copy(pattern, n, namespaces[n // PER_NAMESPACE], alone) for n in range(count)])
        for begin in range(0, count, AT_ONCE):
            await where.etcd.put([(each.key, each.job) for each in jobs[begin : begin + AT_ONCE]])
            await where.etcd.put([(each.pod_key, each.pod) for each in jobs[begin : begin + AT_ONCE]])
        trainers.tell({address(each.number): (each.uid, 1) for each in jobs})
        await where.calm()
        yield jobs


async def _namespaces(api: Api, count: int) -> list[str]:
    names = [f"team-{number}" for number in range(count)]
    await at_once([partial(namespace, api, name) for name in names])
    return names


async def namespace(api: Api, name: str) -> str:
    """Made, with its service account, without which it takes no pods."""
    await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    while not (await api.call("GET", f"/api/v1/namespaces/{name}/serviceaccounts"))["items"]:
        await asyncio.sleep(0.05)
    return name


async def _pattern(where: Installation, trainers: Trainers) -> tuple[Json, Json]:
    """Job and pod of an attempt at work, made by the operator; both are deleted again."""
    api = where.api
    await namespace(api, _PATTERN_NAMESPACE)
    operator = Operator(where, "--poll-seconds", "0.5", "--trainer-port", str(trainers.port))
    path = f"{jobs_in(_PATTERN_NAMESPACE)}/{_PATTERN}"
    pod_path = f"{pods_in(_PATTERN_NAMESPACE)}/{pod_name(_PATTERN, 1)}"
    try:
        await operator.await_leading()
        async with Kubelets.at_work(api, trainers):
            await api.call("POST", jobs_in(_PATTERN_NAMESPACE), manifest(_PATTERN))
            while (await api.call("GET", path)).get("status", {}).get("phase") != "Running":
                await asyncio.sleep(0.2)
        await asyncio.sleep(2)
        job, pod = await api.call("GET", path), await api.call("GET", pod_path)
    finally:
        operator.kill()
    await api.call("DELETE", path)
    await api.call("DELETE", pod_path, {"gracePeriodSeconds": 0}, missing_ok=True)
    return job, pod


def instance(machine: int) -> str:
    """EC2's name of a machine."""
    return f"i-{machine:08x}"


def machine_of(number: int, alone: int) -> int:
    """Number of the machine of a job."""
    return NODES + number if number < alone else number % NODES


def _copy(pattern: tuple[Json, Json], number: int, space: str, alone: int) -> Job:
    job, pod = pattern
    name, uid, pod_uid = f"job-{number:05d}", str(uuid.uuid4()), str(uuid.uuid4())
    swaps = [
        (job["metadata"]["uid"], uid),
        (pod["metadata"]["uid"], pod_uid),
        (_PATTERN_NAMESPACE, space),
        (_PATTERN, name),
        (pod["spec"]["nodeName"], f"hollow-{machine_of(number, alone)}"),
        (pod["status"]["podIP"], address(number)),
    ]
    return Job(number, space, name, uid, pod_uid, json.dumps(swapped(job, swaps)), json.dumps(swapped(pod, swaps)))


def swapped(document: Json, swaps: Sequence[tuple[str, str]]) -> Json:
    """The document with words replaced by others wherever they stand. Pure."""
    text = json.dumps(document)
    for before, after in swaps:
        text = text.replace(before, after)
    changed: Json = json.loads(text)
    return changed
