"""What a real API server, its admission and its scheduler refuse, and what the job says then; and edits that mend it."""

from __future__ import annotations

import copy
import json
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from kubernetes import client

from localcloud.controlplane import ControlPlane
from spottune_operator.cluster import (
    AdmissionDenied,
    ClusterError,
    KubernetesCluster,
    NamespaceTerminating,
    QuotaExceeded,
    ReferenceMissing,
    Unavailable,
    load_configuration,
)
from tests.fixtures.admission import await_refusal
from tests.fixtures.hollow_nodes import HollowNodes
from tests.fixtures.operator_process import (
    HollowTrainer,
    Jobs,
    OperatorProcess,
    await_service_account,
    await_value,
    free_port,
)

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
POD: Json = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "job-e1-0"},
    "spec": {"containers": [{"name": "trainer", "image": "x", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}}]},
}


@pytest.fixture
async def port(control_plane: ControlPlane) -> AsyncIterator[KubernetesCluster]:
    cluster = KubernetesCluster(await load_configuration(str(control_plane.kubeconfig)))
    cluster.leads = lambda: True
    yield cluster
    await cluster.close()


def no_room(core: client.CoreV1Api, namespace: str) -> None:
    core.create_namespaced_resource_quota(namespace, {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}})
    await_refusal(core, namespace, "exceeded quota: q")


def no_limit_told(core: client.CoreV1Api, namespace: str) -> None:
    core.create_namespaced_resource_quota(namespace, {"metadata": {"name": "q"}, "spec": {"hard": {"limits.memory": "1Gi"}}})
    await_value(lambda: core.read_namespaced_resource_quota("q", namespace).status.hard, "the quota is counted")
    await_refusal(core, namespace, "must specify limits.memory")


def small_containers(core: client.CoreV1Api, namespace: str) -> None:
    limits = {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}
    core.create_namespaced_limit_range(namespace, {"metadata": {"name": "small"}, "spec": limits})
    await_refusal(core, namespace, "maximum cpu usage per Container is 1")


def restricted(core: client.CoreV1Api, namespace: str) -> None:
    core.patch_namespace(namespace, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    await_refusal(core, namespace, "violates PodSecurity", hostNetwork=True)


def going(core: client.CoreV1Api, namespace: str) -> None:
    """A finalizer on something in it holds it in this state."""
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "held", "finalizers": ["test.spottune.dev/held"]}})
    core.delete_namespace(namespace)
    await_refusal(core, namespace, "is being terminated")


def webhook_down(core: client.CoreV1Api, namespace: str) -> None:
    """It must be asked, and nobody listens. It goes with `webhook_up`."""
    hook = {
        "name": "down.test.spottune.dev",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "clientConfig": {"url": f"https://127.0.0.1:{free_port()}/"},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
    }
    admission = client.AdmissionregistrationV1Api(core.api_client)
    admission.create_validating_webhook_configuration({"metadata": {"name": namespace}, "webhooks": [hook]})
    await_refusal(core, namespace, "failed calling webhook")


def webhook_up(core: client.CoreV1Api, namespace: str) -> None:
    client.AdmissionregistrationV1Api(core.api_client).delete_validating_webhook_configuration(namespace)


REFUSALS: dict[str, tuple[Callable[[client.CoreV1Api, str], None], Json, type[ClusterError], str]] = {
    "quota": (no_room, {}, QuotaExceeded, "quota: q"),
    "a quota that asks for a limit": (no_limit_told, {}, AdmissionDenied, "must specify limits.memory"),
    "limit range": (small_containers, {}, AdmissionDenied, "maximum cpu usage per Container is 1"),
    "pod security": (restricted, {"hostNetwork": True}, AdmissionDenied, "violates PodSecurity"),
    "namespace being deleted": (going, {}, NamespaceTerminating, "is being terminated"),
    "service account": (lambda core, namespace: None, {"serviceAccountName": "nobody"}, ReferenceMissing, '"nobody" not found'),
    "priority class": (lambda core, namespace: None, {"priorityClassName": "none"}, ReferenceMissing, "PriorityClass"),
    "webhook down": (webhook_down, {}, Unavailable, 'failed calling webhook "down.test.spottune.dev"'),
    "invalid": (lambda core, namespace: None, {"restartPolicy": "Sometimes"}, AdmissionDenied, "restartPolicy"),
}


@pytest.mark.parametrize("why", REFUSALS)
async def test_each_refusal_of_the_api_server_has_its_own_meaning(port: KubernetesCluster, kube: client.ApiClient, why: str) -> None:
    prepare, spec, meaning, words = REFUSALS[why]
    core, namespace = client.CoreV1Api(kube), f"test-{secrets.token_hex(4)}"
    core.create_namespace({"metadata": {"name": namespace}})
    try:
        await_service_account(core, namespace)
        prepare(core, namespace)
        pod = copy.deepcopy(POD)
        pod["metadata"]["namespace"] = namespace
        pod["spec"] |= spec
        with pytest.raises(ClusterError) as caught:
            await port.create_pod(pod)
        assert type(caught.value) is meaning, caught.value
        assert words in caught.value.message
    finally:
        if why == "webhook down":
            webhook_up(core, namespace)
        if why == "namespace being deleted":
            core.patch_namespaced_config_map("held", namespace, {"metadata": {"finalizers": None}})
        else:
            core.delete_namespace(namespace)


def run_spec(pod: Any) -> Json:
    environment = {variable.name: variable.value for variable in pod.spec.containers[0].env}
    document: Json = json.loads(environment["SPOTTUNE_RUN_SPEC"])
    return document


def test_f51_an_edit_leaves_the_running_pod_alone_and_the_next_attempt_uses_it(
    operator: OperatorProcess, jobs: Jobs, hollow_trainer: HollowTrainer
) -> None:
    jobs.create()
    jobs.train(hollow_trainer, 1)
    before = jobs.pod("job-e1-0")
    jobs.patch("job", {"spec": {"checkpoint": {"interval": "77s"}, "podOverrides": {"labels": {"team": "a"}}}})
    await_value(lambda: jobs.status()["observedGeneration"] == 2, "the edit is seen")
    assert jobs.status()["attempts"][0]["generation"] == 1
    assert jobs.pod("job-e1-0").metadata.deletion_timestamp is None
    jobs.vanish("job-e1-0")
    after = jobs.await_pod("job-e2-0")
    assert (run_spec(before)["checkpoint"]["interval"], run_spec(after)["checkpoint"]["interval"]) == ("5m", "77s")
    assert after.metadata.labels["team"] == "a"
    assert jobs.status()["attempts"][1]["generation"] == 2


def test_f57_an_image_that_cannot_be_had_is_told_and_an_edit_of_the_spec_mends_it(operator: OperatorProcess, jobs: Jobs) -> None:
    jobs.create(podOverrides={"image": "nowhere.example/none:1"})
    jobs.hold_up("job-e1-0", "ErrImagePull", "nowhere.example: no such host")
    await_value(lambda: jobs.condition("Started").get("reason") == "ImageUnavailable", "the job says so", 10)
    answer = jobs.condition("Started")
    assert (answer["status"], jobs.phase()) == ("False", "Starting")
    assert "no such host" in answer["message"]
    assert "podOverrides.image" in answer["message"]
    jobs.patch("job", {"spec": {"podOverrides": {"image": "somewhere.example/trainer:1"}}})
    await_value(lambda: jobs.pod("job-e1-0").metadata.deletion_timestamp, "the pod that cannot start is ended")
    jobs.vanish("job-e1-0")
    assert jobs.await_pod("job-e2-0").spec.containers[0].image == "somewhere.example/trainer:1"
    assert jobs.status().get("failures", 0) == 0


def test_f58_a_webhook_that_is_down_is_told_and_waited_for(operator: OperatorProcess, jobs: Jobs) -> None:
    webhook_down(jobs.core, jobs.namespace)
    try:
        jobs.create()
        await_value(lambda: jobs.condition("CapacityAvailable").get("reason") == "PodCreateFails", "the job says so")
    finally:
        webhook_up(jobs.core, jobs.namespace)
    answer = jobs.condition("CapacityAvailable")
    assert (answer["status"], jobs.phase()) == ("False", "Waiting")
    assert 'failed calling webhook "down.test.spottune.dev"' in answer["message"]
    assert "mend its service" in answer["message"]
    jobs.await_pod("job-e1-0", 30)
    await_value(lambda: jobs.condition("CapacityAvailable")["status"] == "True", "that it works again is told")
    assert (jobs.status()["attempt"], jobs.status().get("failures", 0)) == (1, 0)


def test_f55_a_pod_that_fits_nowhere_tells_the_schedulers_words_and_an_edit_of_the_spec_mends_it(
    operator: OperatorProcess, jobs: Jobs
) -> None:
    jobs.create(podOverrides={"nodeSelector": {"disk": "nowhere"}})
    await_value(lambda: jobs.condition("CapacityAvailable").get("reason") == "WaitingForNode", "the job says so")
    assert "nodes are available" in jobs.condition("CapacityAvailable")["message"]
    jobs.patch("job", {"spec": {"podOverrides": {"nodeSelector": None}}})
    jobs.await_pod("job-e2-0")
    await_value(lambda: jobs.pod("job-e2-0").spec.node_name, "it is placed")
    assert jobs.pod("job-e1-0") is None
    assert jobs.status()["attempts"][0]["reason"] == "SpecEdited"


@pytest.fixture
def doomed(kube: client.ApiClient, hollow_nodes: HollowNodes, operator: OperatorProcess) -> Jobs:
    """A namespace that the test deletes."""
    here = Jobs(kube, f"test-{secrets.token_hex(4)}")
    here.core.create_namespace({"metadata": {"name": here.namespace}})
    await_service_account(here.core, here.namespace)
    return here


def namespaces(jobs: Jobs) -> list[str]:
    return [namespace.metadata.name for namespace in jobs.core.list_namespace().items]


def test_f49_a_namespace_that_is_deleted_in_mid_run_takes_all_along_and_nothing_new_is_made(
    operator: OperatorProcess, doomed: Jobs, hollow_trainer: HollowTrainer
) -> None:
    doomed.create()
    doomed.train(hollow_trainer, 1)
    created = operator.metric('spottune_actions_total{action="CreatePod",outcome="created"}')
    doomed.core.delete_namespace(doomed.namespace)
    await_value(lambda: doomed.pod("job-e1-0").metadata.deletion_timestamp, "the trainer gets its SIGTERM", 60)
    doomed.vanish("job-e1-0")
    await_value(lambda: doomed.namespace not in namespaces(doomed), "the namespace is gone", 60)
    assert operator.metric('spottune_actions_total{action="CreatePod",outcome="created"}') == created
    await_value(lambda: operator.metric("spottune_jobs_set_aside") == 0, "no job is set aside", 30)


def test_f49_a_pod_that_a_dying_namespace_refuses_ends_the_job_with_the_reason(
    operator: OperatorProcess, doomed: Jobs, hollow_trainer: HollowTrainer, control_plane: ControlPlane
) -> None:
    """Without its controller a namespace dies no further than to refuse what is new: the job stays long enough to be looked at."""
    doomed.create()
    doomed.train(hollow_trainer, 1)
    controller = control_plane.controller_manager().running()
    assert controller is not None
    controller.signal(signal.SIGSTOP)
    try:
        doomed.core.delete_namespace(doomed.namespace)
        doomed.vanish("job-e1-0")
        status = doomed.await_phase("Cancelled")
        answer = doomed.condition("Complete")
        assert (answer["status"], answer["reason"]) == ("False", "NamespaceTerminating")
        assert "create the job in another namespace" in answer["message"]
        assert (status.get("failures", 0), doomed.pods()) == (0, [])
    finally:
        controller.signal(signal.SIGCONT)
    await_value(lambda: doomed.namespace not in namespaces(doomed), "the namespace is gone", 60)
