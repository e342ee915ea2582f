"""The chart as Helm renders it: smallest rights, restricted pods, values that are checked."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import yaml

from localcloud.assets import binary
from spottune_operator.config import PREFIX, parse
from spottune_operator.leadership import LEASE
from spottune_operator.silence import NODE_LEASES
from tests.fixtures.chart import CHART, RELEASE, RELEASE_NAMESPACE, render


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return render(values=("networkPolicy.enabled=true", "networkPolicy.namespaces={demo,other}", "sqs.queueURL=https://queue"))


def one(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def test_helm_finds_nothing_to_complain_about() -> None:
    command = [str(binary("helm")), "lint", "--strict", str(CHART), "--set", "clusterName=test"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operators_rights_are_exactly_these(documents: list[dict[str, Any]]) -> None:
    rules = one(documents, "ClusterRole", "spottune-operator")["rules"]
    granted = {(group, resource): set(rule["verbs"]) for rule in rules for group in rule["apiGroups"] for resource in rule["resources"]}
    assert granted == {
        ("spottune.dev", "finetunejobs"): {"get", "list", "watch"},
        ("spottune.dev", "finetunejobs/status"): {"update"},
        ("", "pods"): {"get", "list", "watch", "create", "delete"},
        ("", "nodes"): {"get", "list", "watch"},
        ("", "events"): {"create", "patch"},
    }
    (lease,) = one(documents, "Role", "spottune-operator")["rules"]
    assert (lease["resources"], lease["resourceNames"], set(lease["verbs"])) == (["leases"], [LEASE], {"get", "create", "update"})
    assert one(documents, "Role", "spottune-operator")["metadata"]["namespace"] == RELEASE_NAMESPACE
    (nodes,) = one(documents, "Role", "spottune-operator-nodes")["rules"]
    assert (nodes["apiGroups"], nodes["resources"], nodes["verbs"]) == (["coordination.k8s.io"], ["leases"], ["get"])
    assert one(documents, "Role", "spottune-operator-nodes")["metadata"]["namespace"] == NODE_LEASES


def test_no_role_of_the_chart_has_a_wildcard_or_reaches_secrets(documents: list[dict[str, Any]]) -> None:
    roles = [d for d in documents if d["kind"] in ("ClusterRole", "Role")]
    assert roles
    for role in roles:
        for rule in role["rules"]:
            words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert "*" not in words, role["metadata"]["name"]
            assert not words & {"secrets", "configmaps", "pods/exec", "impersonate", "escalate", "bind"}, role["metadata"]["name"]


def test_the_operator_pod_is_restricted(documents: list[dict[str, Any]]) -> None:
    deployment = one(documents, "Deployment", "spottune-operator")["spec"]
    assert deployment["replicas"] == 1
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert pod["serviceAccountName"] == "spottune-operator"
    assert {"livenessProbe", "readinessProbe", "startupProbe"} <= container.keys()


def test_two_operators_are_spread_and_an_update_waits_for_the_new_ones() -> None:
    deployment = one(render("operator.yaml", values=("operator.replicas=2",)), "Deployment", "spottune-operator")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    (spread,) = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    assert spread["labelSelector"]["matchLabels"].items() <= deployment["template"]["metadata"]["labels"].items()


def test_what_the_chart_sets_is_what_the_operator_reads() -> None:
    values = (
        "trainer.image=repo/trainer@sha256:x",
        "trainer.resources.requests.cpu=2",
        "trainer.imagePullSecrets={a,b}",
        "trainer.doNotDisrupt=false",
        "sqs.queueURL=https://queue",
        "sqs.endpoint=http://198.18.0.1:5000",
        "operator.resyncSeconds=7",
        "operator.pollsPerSecond=50",
    )
    deployment = one(render("operator.yaml", values=values), "Deployment", "spottune-operator")
    environ = {e["name"]: e["value"] for e in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    config = parse([], environ)
    assert all(name.startswith(PREFIX) for name in environ)
    assert (config.trainers.cluster, config.trainers.image) == ("test", "repo/trainer@sha256:x")
    assert config.namespace == RELEASE_NAMESPACE
    assert config.trainers.resources == {"requests": {"cpu": 2}}
    assert config.trainers.image_pull_secrets == ("a", "b")
    assert config.trainers.do_not_disrupt is False
    assert config.queue is not None
    assert (config.queue.url, config.queue.endpoint) == ("https://queue", "http://198.18.0.1:5000")
    assert (config.resync_seconds, config.polls_per_second) == (7.0, 50.0)


def test_a_network_policy_admits_only_the_operator_to_the_trainers_of_each_namespace(documents: list[dict[str, Any]]) -> None:
    policies = [d for d in documents if d["kind"] == "NetworkPolicy"]
    assert [p["metadata"]["namespace"] for p in policies] == ["demo", "other"]
    for policy in policies:
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        (rule,) = policy["spec"]["ingress"]
        (source,) = rule["from"]
        assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": RELEASE_NAMESPACE}
        assert source["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("clusterName=", "clusterName"),
        ("clusterName=a/b", "clusterName"),
        ("operator.logLevel=loud", "logLevel"),
        ("operator.replicas=many", "replicas"),
        ("sqs.queueURL=queue", "queueURL"),
        ("trainer.resources.limit=1", "limit"),
        ("trainr.image=x", "trainr"),
    ],
)
def test_a_wrong_value_is_refused_by_name(setting: str, named: str) -> None:
    command = [str(binary("helm")), "template", RELEASE, str(CHART), "--set", "clusterName=test", "--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert named in done.stderr


def test_every_value_has_a_place_in_the_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    for part in ("operator", "trainer", "sqs", "networkPolicy"):
        assert values[part].keys() == schema[part]["properties"].keys()
    assert values.keys() <= schema.keys()
