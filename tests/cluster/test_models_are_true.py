"""The clusters in memory answer as the real API server does, in everything that the operator relies on: one script, run on each."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

import pytest
from kubernetes import client

from localcloud.controlplane import ControlPlane
from spottune_contract.labels import API_VERSION, EPOCH, GROUP, JOB, PLURAL, RANK
from spottune_operator.cluster import Cluster, ClusterError, KubernetesCluster, load_configuration
from spottune_operator.manifests import TrainerDefaults, trainer_pod
from spottune_operator.observe import observe, owned
from spottune_operator.planner.types import CreatePod
from tests.fixtures.jobs import job_manifest
from tests.fixtures.memory_cluster import MemoryCluster
from tests.simulation.cluster_model import Call, ModelCluster, World, carry_out

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
SPEC: Json = job_manifest()["spec"]


class Surroundings(Protocol):
    """What users, schedulers and kubelets do to a cluster, beside the operator."""

    cluster: Cluster
    namespace: str

    def apply(self, name: str) -> Json: ...

    def edit(self, name: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def place(self, pod: str) -> None: ...

    async def until_gone(self, pod: str) -> None:
        """Until the garbage collector has asked for the pod's end."""
        ...


class Real:
    """The control plane of this session."""

    def __init__(self, kube: client.ApiClient, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        self._jobs, self._core = client.CustomObjectsApi(kube), client.CoreV1Api(kube)

    def apply(self, name: str) -> Json:
        created: Json = self._jobs.create_namespaced_custom_object(GROUP, API_VERSION, self.namespace, PLURAL, job_manifest(name))
        return created

    def edit(self, name: str) -> None:
        self._jobs.patch_namespaced_custom_object(GROUP, API_VERSION, self.namespace, PLURAL, name, {"spec": {"suspend": True}})

    def remove(self, name: str) -> None:
        self._jobs.delete_namespaced_custom_object(GROUP, API_VERSION, self.namespace, PLURAL, name)

    def place(self, pod: str) -> None:
        binding = {"metadata": {"name": pod}, "target": {"kind": "Node", "name": "nowhere"}}
        self._core.create_namespaced_pod_binding(pod, self.namespace, binding, _preload_content=False)

    async def until_gone(self, pod: str) -> None:
        async with asyncio.timeout(60):
            while "deletionTimestamp" not in await _or_gone(self.cluster.get_pod(self.namespace, pod)):
                await asyncio.sleep(0.1)


class Model:
    """The cluster of the simulations."""

    namespace = "demo"

    def __init__(self) -> None:
        self.world = World()
        self.cluster: Cluster = ModelCluster(self.world)
        self.world.add_node("nowhere")

    def apply(self, name: str) -> Json:
        return self.world.api_get_job(self.world.add_job(name, dict(SPEC))["metadata"]["name"])

    def edit(self, name: str) -> None:
        self.world.edit_spec(self.world.jobs[name], suspend=True)

    def remove(self, name: str) -> None:
        self.world.delete_job(name)

    def place(self, pod: str) -> None:
        self.world.schedule(self.world.pods[pod], "nowhere")

    async def until_gone(self, pod: str) -> None:
        self.world.collect_garbage()


class Memory:
    """The cluster of the executor's unit tests; it has no garbage collector and no scheduler."""

    namespace = "demo"

    def __init__(self) -> None:
        self.memory = MemoryCluster()
        self.cluster: Cluster = self.memory

    def apply(self, name: str) -> Json:
        return self.memory.add_job(name, **SPEC)

    def edit(self, name: str) -> None:
        job = self.memory.jobs[self.namespace, name]
        job["spec"]["suspend"] = True
        job["metadata"]["generation"] += 1
        self.memory._touched(job)

    def remove(self, name: str) -> None:
        del self.memory.jobs[self.namespace, name]

    def place(self, pod: str) -> None:
        self.memory.set_pod_status(pod, {"phase": "Pending"}, "nowhere")

    async def until_gone(self, pod: str) -> None:
        return None


async def answer_of(call: Coroutine[Any, Any, Any]) -> Any:
    """What the call says, or the kind of error that it ends with."""
    try:
        return await call
    except ClusterError as error:
        return type(error).__name__


async def _or_gone(call: Coroutine[Any, Any, Json]) -> Json:
    found = await answer_of(call)
    return {"deletionTimestamp": "gone"} if isinstance(found, str) else found["metadata"]


def pod_of(job: Json, epoch: int) -> Json:
    seen = observe(job, [], {}, now=1.0)
    action = CreatePod(f"{job['metadata']['name']}-e{epoch}-0", epoch, 0, "*/*/spot", min_slot=0)
    return trainer_pod(seen, action, TrainerDefaults(cluster="c", image="spottune.local/trainer:dev"))


def facts(pod: Any) -> Any:
    """What the operator reads of a pod's identity."""
    if not isinstance(pod, dict):
        return pod
    metadata = pod["metadata"]
    labels = tuple(metadata["labels"][label] for label in (JOB, EPOCH, RANK))
    return metadata["name"], labels, "deletionTimestamp" in metadata, pod["status"]["phase"]


async def jobs_script(around: Surroundings) -> list[tuple[str, Any]]:
    """Versions, generations and the status of jobs."""
    cluster, where = around.cluster, around.namespace
    said: list[tuple[str, Any]] = [("get a job that is not there", await answer_of(cluster.get_job(where, "a")))]
    created = around.apply("a")
    first = await cluster.get_job(where, "a")
    said.append(("the first generation", (first["metadata"]["generation"], first.get("status"))))
    said.append(("it has a UID and a version", all(first["metadata"].get(field) for field in ("uid", "resourceVersion"))))
    written = await cluster.replace_status(first, {"phase": "Starting", "attempt": 1})
    said.append(("a status write raises the version only", _moved(first, written)))
    said.append(("and answers with the status", written["status"]))
    said.append(("and leaves the spec", written["spec"] == first["spec"]))
    said.append(("the same write again, from what it answered", _moved(written, await cluster.replace_status(written, written["status"]))))
    said.append(("from a stale version", await answer_of(cluster.replace_status(first, {"phase": "Failed", "attempt": 2}))))
    around.edit("a")
    edited = await cluster.get_job(where, "a")
    said.append(("an edit raises both", _moved(written, edited)))
    said.append(("and keeps the status", edited["status"]))
    said.append(("a status decided before the edit", await answer_of(cluster.replace_status(written, {"phase": "Failed", "attempt": 2}))))
    said.append(
        (
            "in the list of all",
            sum([j["metadata"]["uid"] == created["metadata"]["uid"] async for page in cluster.pages_of_jobs() for j in page]),
        )
    )
    around.remove("a")
    said.append(("deleted without a finalizer: gone at once", await answer_of(cluster.get_job(where, "a"))))
    said.append(("its status", await answer_of(cluster.replace_status(edited, {"phase": "Failed", "attempt": 2}))))
    again = around.apply("a")
    said.append(("a job of the same name is another", again["metadata"]["uid"] != created["metadata"]["uid"]))
    said.append(("its generation", again["metadata"]["generation"]))
    said.append(("a status decided for the old one", await answer_of(cluster.replace_status(edited, {"phase": "Failed", "attempt": 2}))))
    return said


def _moved(before: Json, after: Json) -> tuple[bool, int]:
    """Whether the version has changed, and by how much the generation."""
    old, new = before["metadata"], after["metadata"]
    return old["resourceVersion"] != new["resourceVersion"], new["generation"] - old["generation"]


async def pods_script(around: Surroundings) -> list[tuple[str, Any]]:
    """Names, selectors, UID preconditions and deletion of pods."""
    cluster, where = around.cluster, around.namespace
    a, b = around.apply("a"), around.apply("b")
    said: list[tuple[str, Any]] = [("get a pod that is not there", await answer_of(cluster.get_pod(where, "a-e1-0")))]
    made = await cluster.create_pod(pod_of(a, 1))
    said.append(("create", facts(made)))
    said.append(("it is ours", owned(made, a["metadata"]["uid"], "a")))
    said.append(("create what is there", await answer_of(cluster.create_pod(pod_of(a, 1)))))
    await cluster.create_pod(pod_of(a, 2))
    await cluster.create_pod(pod_of(b, 1))
    said += [(f"pods of {job}", sorted(facts(p) for p in await cluster.list_pods(where, job))) for job in ("a", "b", "c")]
    said.append(("pods of all jobs here", len(await cluster.list_pods(where))))
    wrong = cluster.delete_pod(where, "a-e1-0", uid="another", grace_seconds=10)
    said.append(("delete with another UID", await answer_of(wrong)))
    said.append(("it is still there", facts(await cluster.get_pod(where, "a-e1-0"))))
    missing = cluster.delete_pod(where, "a-e9-0", uid="any", grace_seconds=10)
    said.append(("delete what is not there", await answer_of(missing)))
    return said


async def deletion_script(around: Surroundings) -> list[tuple[str, Any]]:
    """Graceful deletion, and the garbage collector."""
    cluster, where = around.cluster, around.namespace
    a = around.apply("a")
    unplaced, placed, third = [await cluster.create_pod(pod_of(a, epoch)) for epoch in (1, 2, 3)]
    around.place("a-e2-0")
    around.place("a-e3-0")
    uids = [pod["metadata"]["uid"] for pod in (unplaced, placed)]
    await cluster.delete_pod(where, "a-e1-0", uid=uids[0], grace_seconds=100)
    said: list[tuple[str, Any]] = [("without a node: gone at once", await answer_of(cluster.get_pod(where, "a-e1-0")))]
    await cluster.delete_pod(where, "a-e2-0", uid=uids[1], grace_seconds=100)
    going = await cluster.get_pod(where, "a-e2-0")
    said.append(("on a node: it has its grace time", facts(going)))
    said.append(("deleted again", await answer_of(cluster.delete_pod(where, "a-e2-0", uid=uids[1], grace_seconds=100))))
    after = await cluster.get_pod(where, "a-e2-0")
    said.append(("its deadline stays", after["metadata"]["deletionTimestamp"] == going["metadata"]["deletionTimestamp"]))
    said.append(("its name is taken", await answer_of(cluster.create_pod(pod_of(a, 2)))))
    around.remove("a")
    said.append(("the job is gone", await answer_of(cluster.get_job(where, "a"))))
    await around.until_gone("a-e3-0")
    said.append(("its pod is ended by its owner reference", facts(await answer_of(cluster.get_pod(where, "a-e3-0")))))
    fresh = around.apply("a")
    again = await cluster.create_pod(pod_of(fresh, 1))
    said.append(("a pod of the same name is another", again["metadata"]["uid"] != unplaced["metadata"]["uid"]))
    said.append(("the new job's", (owned(again, fresh["metadata"]["uid"], "a"), owned(third, fresh["metadata"]["uid"], "a"))))
    said.append(("deleted by the old UID", await answer_of(cluster.delete_pod(where, "a-e1-0", uid=uids[0], grace_seconds=1))))
    return said


def in_model(script: Coroutine[Any, Any, list[tuple[str, Any]]]) -> list[tuple[str, Any]]:
    """Drive a script on the cluster of the simulations: every call is carried out and answered at once."""
    send: Any = lambda: script.send(None)  # noqa: E731
    while True:
        try:
            call = send()
        except StopIteration as stop:
            result: list[tuple[str, Any]] = stop.value
            return result
        assert isinstance(call, Call)
        try:
            answer = carry_out(call, "answered")
        except ClusterError as error:
            send = lambda error=error: script.throw(error)  # noqa: E731
        else:
            send = lambda answer=answer: script.send(answer)  # noqa: E731


SCRIPTS = [jobs_script, pods_script, deletion_script]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
async def test_the_clusters_in_memory_answer_as_the_real_one(
    script: Any, control_plane: ControlPlane, kube: client.ApiClient, finetunejobs: client.CustomObjectsApi, namespace: str
) -> None:
    cluster = KubernetesCluster(await load_configuration(str(control_plane.kubeconfig)))
    cluster.leads = lambda: True
    try:
        real = await script(Real(kube, cluster, namespace))
    finally:
        await cluster.close()
    assert in_model(script(Model())) == real
    if script is not deletion_script:
        assert await script(Memory()) == real
