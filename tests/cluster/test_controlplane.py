"""The local control plane enforces what the real one would: identities, admission, garbage collection, and it survives kills."""

from __future__ import annotations

import base64
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kubernetes import client, config
from kubernetes.client.rest import ApiException

from localcloud.controlplane import ControlPlane
from localcloud.home import Home
from localcloud.process import ServiceError
from tests.fixtures.admission import RESTRICTED_POD, await_refusal

pytestmark = pytest.mark.cluster

UNPLACED_POD = RESTRICTED_POD | {"nodeSelector": {"nowhere": "true"}}
"""Other tests' hollow nodes may be there: on one of them nobody would end the pod."""


def eventually(condition: Callable[[], bool], timeout: float = 30) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def as_user(kubeconfig: Path) -> client.CoreV1Api:
    return client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))


def refusal(call: Callable[[], object]) -> ApiException:
    with pytest.raises(ApiException) as caught:
        call()
    return caught.value


def test_it_serves_the_pinned_version(kube: client.ApiClient) -> None:
    assert client.VersionApi(kube).get_code().git_version == "v1.34.4"


def test_an_identity_without_rights_may_do_nothing_until_a_role_says_so(
    control_plane: ControlPlane, kube: client.ApiClient, namespace: str
) -> None:
    alice = as_user(control_plane.client_config("alice", ["team-a"]))
    assert refusal(lambda: alice.list_namespaced_pod(namespace)).status == 403
    rbac = client.RbacAuthorizationV1Api(kube)
    rbac.create_namespaced_role(
        namespace, {"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]}
    )
    binding = {
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "Group", "name": "team-a"}],
    }
    rbac.create_namespaced_role_binding(namespace, binding)
    eventually(lambda: _allowed(lambda: alice.list_namespaced_pod(namespace)))


def _allowed(call: Callable[[], object]) -> bool:
    try:
        call()
    except ApiException:
        return False
    return True


def test_pod_security_refuses_a_privileged_pod(kube: client.ApiClient, namespace: str) -> None:
    core = client.CoreV1Api(kube)
    core.patch_namespace(namespace, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    core.create_namespaced_pod(namespace, {"metadata": {"name": "good"}, "spec": RESTRICTED_POD})
    bad = RESTRICTED_POD | {"hostNetwork": True}
    await_refusal(core, namespace, "violates PodSecurity", hostNetwork=True)
    error = refusal(lambda: core.create_namespaced_pod(namespace, {"metadata": {"name": "bad"}, "spec": bad}))
    assert error.status == 403
    assert "hostNetwork" in error.body


def test_owned_objects_are_collected_with_their_owner(kube: client.ApiClient, namespace: str) -> None:
    core = client.CoreV1Api(kube)
    owner = core.create_namespaced_config_map(namespace, {"metadata": {"name": "owner"}})
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid, "controller": True}
    core.create_namespaced_pod(namespace, {"metadata": {"name": "owned", "ownerReferences": [reference]}, "spec": UNPLACED_POD})
    core.delete_namespaced_config_map("owner", namespace)
    eventually(lambda: not core.list_namespaced_pod(namespace).items)


def test_the_scheduler_says_why_a_pod_waits(kube: client.ApiClient, namespace: str) -> None:
    core = client.CoreV1Api(kube)
    core.create_namespaced_pod(namespace, {"metadata": {"name": "waits"}, "spec": UNPLACED_POD})

    def condition_message() -> str:
        conditions = core.read_namespaced_pod("waits", namespace).status.conditions or []
        return next((c.message for c in conditions if c.type == "PodScheduled"), None) or ""

    eventually(lambda: re.search("no nodes available|nodes are available", condition_message()) is not None)


def test_a_kubelet_may_change_only_its_own_node(control_plane: ControlPlane) -> None:
    kubelet = as_user(control_plane.node_config("node-a"))
    node = {"metadata": {"name": "node-b"}}
    assert refusal(lambda: kubelet.create_node(node)).status == 403
    kubelet.create_node({"metadata": {"name": "node-a", "labels": {"karpenter.sh/capacity-type": "spot"}}})
    as_user(control_plane.kubeconfig).delete_node("node-a")


def test_a_pod_token_names_the_node_it_is_bound_to(control_plane: ControlPlane, kube: client.ApiClient, namespace: str) -> None:
    core = client.CoreV1Api(kube)
    core.create_node({"metadata": {"name": namespace}})
    eventually(lambda: _allowed(lambda: core.read_namespaced_service_account("default", namespace)))
    pod = core.create_namespaced_pod(namespace, {"metadata": {"name": "agent"}, "spec": RESTRICTED_POD | {"nodeName": namespace}})
    request = {"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "agent", "uid": pod.metadata.uid}}}
    token = core.create_namespaced_service_account_token("default", namespace, request).status.token
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["kubernetes.io"]["node"]["name"] == namespace
    core.delete_node(namespace)


def test_a_validating_admission_policy_binds_a_user_to_its_node(
    control_plane: ControlPlane, kube: client.ApiClient, namespace: str
) -> None:
    policy = {
        "metadata": {"name": namespace},
        "spec": {
            "matchConstraints": {
                "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]
            },
            "validations": [{"expression": "object.metadata.name != 'forbidden'", "message": "not this name"}],
        },
    }
    admission = client.AdmissionregistrationV1Api(kube)
    admission.create_validating_admission_policy(policy)
    scope = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    binding = {"metadata": {"name": namespace}, "spec": {"policyName": namespace, "validationActions": ["Deny"], "matchResources": scope}}
    admission.create_validating_admission_policy_binding(binding)
    core = client.CoreV1Api(kube)

    def refused() -> bool:
        try:
            core.create_namespaced_config_map(namespace, {"metadata": {"name": "forbidden"}})
        except ApiException as error:
            return "not this name" in error.body
        core.delete_namespaced_config_map("forbidden", namespace)
        return False

    eventually(refused)
    admission.delete_validating_admission_policy_binding(namespace)
    admission.delete_validating_admission_policy(namespace)


def test_objects_and_identities_survive_a_kill_of_every_part(home: Home) -> None:
    plane = ControlPlane(home)
    plane.up()
    as_user(plane.kubeconfig).create_namespace({"metadata": {"name": "kept"}})
    for service in (plane.etcd(), plane.apiserver(), plane.controller_manager(), plane.scheduler()):
        process = service.running()
        assert process is not None
        process.signal(signal.SIGKILL)
    plane.up()
    assert as_user(plane.kubeconfig).read_namespace("kept").metadata.name == "kept"
    plane.down()
    plane.down()
    assert not plane.etcd().running()


def test_an_address_that_is_not_there_is_named(home: Home) -> None:
    plane = ControlPlane(home, "198.51.100.1")
    with pytest.raises(ServiceError, match=r"198\.51\.100\.1"):
        plane.up()
