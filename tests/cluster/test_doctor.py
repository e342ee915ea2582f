"""`spottune doctor` on a real API server with Karpenter's own CRDs: it finds each trap, and is content after it was mended."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from typer.testing import CliRunner

from localcloud.controlplane import ControlPlane
from localcloud.karpenter import Karpenter
from spottune_cli.main import app
from tests.fixtures.admission import RESTRICTED_POD
from tests.fixtures.jobs import job_manifest

pytestmark = pytest.mark.cluster
SPOT_POOL = Path(__file__).resolve().parents[2] / "examples" / "karpenter" / "spot.yaml"
POOLS = ("karpenter.sh", "v1", "nodepools")
JOBS = ("spottune.dev", "v1alpha1")

Doctor = Callable[[str], list[tuple[str, str]]]


@pytest.fixture
def doctor(control_plane: ControlPlane, finetunejobs: client.CustomObjectsApi, namespace: str) -> Doctor:
    """Levels and messages of one check, about this test's namespace."""

    def ask(check: str) -> list[tuple[str, str]]:
        command = ["doctor", "-n", namespace, "-o", "json", "--kubeconfig", str(control_plane.kubeconfig)]
        result = CliRunner().invoke(app, command)
        told = json.loads(result.stdout)
        assert result.exit_code == (1 if told["problems"] else 0), result.output
        return [(f["level"], f["message"]) for f in told["findings"] if f["check"] == check]

    return ask


@pytest.fixture
def node_pool(control_plane: ControlPlane, finetunejobs: client.CustomObjectsApi) -> Iterator[dict[str, Any]]:
    """The example's NodePool under a name of its own, without a grace period."""
    Karpenter(control_plane, "").install_crds()
    pool = yaml.safe_load(SPOT_POOL.read_text())
    pool["metadata"]["name"] = f"spot-{secrets.token_hex(4)}"
    del pool["spec"]["template"]["spec"]["terminationGracePeriod"]
    yield finetunejobs.create_cluster_custom_object(*POOLS, pool)
    finetunejobs.delete_cluster_custom_object(*POOLS, pool["metadata"]["name"])


def trainer(kube: client.ApiClient, namespace: str, name: str, **spec: Any) -> None:
    metadata = {"name": name, "labels": {"spottune.dev/job": "job"}, "annotations": {"karpenter.sh/do-not-disrupt": "true"}}
    body = {"metadata": metadata, "spec": {**RESTRICTED_POD, "automountServiceAccountToken": False, **spec}}
    client.CoreV1Api(kube).create_namespaced_pod(namespace, body)


def test_t1_a_node_pool_without_a_grace_period(
    kube: client.ApiClient, finetunejobs: client.CustomObjectsApi, namespace: str, doctor: Doctor, node_pool: dict[str, Any]
) -> None:
    trainer(kube, namespace, "job-e1-0")
    name = node_pool["metadata"]["name"]
    assert [level for level, text in doctor("node pools") if name in text] == ["PROBLEM"]
    node_pool["spec"]["template"]["spec"]["terminationGracePeriod"] = "120s"
    finetunejobs.replace_cluster_custom_object(*POOLS, name, node_pool)
    assert [level for level, text in doctor("node pools") if name in text] == ["OK"]


def test_t2_a_trainer_that_tolerates_everything(kube: client.ApiClient, namespace: str, doctor: Doctor) -> None:
    trainer(kube, namespace, "job-e1-0", tolerations=[{"operator": "Exists"}])
    assert [level for level, _ in doctor("tolerations")] == ["PROBLEM"]
    client.CoreV1Api(kube).delete_namespaced_pod("job-e1-0", namespace, grace_period_seconds=0)
    trainer(kube, namespace, "job-e2-0", tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}])
    assert [level for level, _ in doctor("tolerations")] == ["OK"]


def test_t2_admission_refuses_a_toleration_without_a_key_but_not_that_of_the_drain(
    finetunejobs: client.CustomObjectsApi, namespace: str, doctor: Doctor
) -> None:
    job = job_manifest("keyless", spec__podOverrides={"tolerations": [{"operator": "Exists"}]})
    with pytest.raises(client.ApiException, match="tolerations"):
        finetunejobs.create_namespaced_custom_object(*JOBS, namespace, "finetunejobs", job)
    job = job_manifest("drain", spec__podOverrides={"tolerations": [{"key": "karpenter.sh/disrupted", "operator": "Exists"}]})
    finetunejobs.create_namespaced_custom_object(*JOBS, namespace, "finetunejobs", job)
    assert [level for level, _ in doctor("tolerations")] == ["PROBLEM"]


def test_t4_a_disruption_budget_that_holds_a_trainer(kube: client.ApiClient, namespace: str, doctor: Doctor) -> None:
    policy = client.PolicyV1Api(kube)
    trainer(kube, namespace, "job-e1-0")
    budget = {"metadata": {"name": "all"}, "spec": {"maxUnavailable": 0, "selector": {}}}
    policy.create_namespaced_pod_disruption_budget(namespace, budget)
    assert [level for level, _ in doctor("disruption budgets")] == ["PROBLEM"]
    selector = {"matchExpressions": [{"key": "spottune.dev/job", "operator": "DoesNotExist"}]}
    policy.patch_namespaced_pod_disruption_budget("all", namespace, {"spec": {"selector": selector}})
    assert [level for level, _ in doctor("disruption budgets")] == ["OK"]


def test_somebody_with_the_rights_of_one_namespace_is_told_what_was_not_looked_at(
    control_plane: ControlPlane, kube: client.ApiClient, finetunejobs: client.CustomObjectsApi, namespace: str, tmp_path: Path
) -> None:
    rbac = client.RbacAuthorizationV1Api(kube)
    subject = {"kind": "User", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}
    jobs = {"apiGroups": ["spottune.dev"], "resources": ["finetunejobs"], "verbs": ["list"]}
    pods = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    rbac.create_namespaced_role(namespace, {"metadata": {"name": "reader"}, "rules": [jobs, pods]})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    rbac.create_namespaced_role_binding(namespace, {"metadata": {"name": "reader"}, "subjects": [subject], "roleRef": role})
    config = yaml.safe_load(control_plane.client_config("reader").read_text())
    config["contexts"][0]["context"]["namespace"] = namespace
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    trainer(kube, namespace, "job-e1-0", tolerations=[{"operator": "Exists"}])
    result = CliRunner().invoke(app, ["doctor", "--kubeconfig", str(tmp_path / "kubeconfig")])
    assert result.exit_code == 1, result.output
    assert f"only {namespace} was looked at" in result.stdout
    assert f"pod {namespace}/job-e1-0 tolerates karpenter.sh/disrupted" in result.stdout
    assert "not checked: you may not list nodepools.karpenter.sh" in result.stdout
