from __future__ import annotations

import itertools

import pytest
from kubernetes import client

from spottune_agent.kube import Deletion, Kube, KubeError
from spottune_agent.respond import TrainerPod
from tests.fixtures.agentcluster import AgentCluster, await_until
from tests.fixtures.chart import render

pytestmark = pytest.mark.cluster


def as_agent(cluster: AgentCluster, node: str | None) -> Kube:
    return Kube(cluster.server, cluster.token_file(node), cluster.ca_file)


def meant(cluster: AgentCluster, name: str, uid: str) -> TrainerPod:
    return TrainerPod(cluster.namespace, name, uid, "", ending=False, finished=False)


@pytest.fixture
def enforced(agent_cluster: AgentCluster) -> AgentCluster:
    """The cluster once the API server has taken the policy over, seen by a deletion that it refuses."""
    kube, tries = as_agent(agent_cluster, agent_cluster.nodes[0]), itertools.count()

    def refused() -> bool:
        # A new pod each time: the deletion of one that is ending already is not put before the policy.
        name = f"canary-{next(tries)}"
        try:
            kube.delete_pod(meant(agent_cluster, name, agent_cluster.pod(name, agent_cluster.nodes[0], trainer=False)), 30)
        except KubeError as error:
            return "spottune.dev/job" in str(error)
        return False

    await_until(refused, "the policy refuses the deletion of a pod that is no trainer")
    return agent_cluster


def test_the_agent_deletes_a_trainer_pod_of_its_own_node_with_the_grace_time_it_gives(enforced: AgentCluster) -> None:
    uid = enforced.pod("trainer", enforced.nodes[0])
    assert as_agent(enforced, enforced.nodes[0]).delete_pod(meant(enforced, "trainer", uid), 37) is Deletion.ACCEPTED
    assert enforced.find("trainer").metadata.deletion_grace_period_seconds == 37


def test_the_agent_cannot_delete_a_trainer_pod_of_another_node(enforced: AgentCluster) -> None:
    uid = enforced.pod("trainer", enforced.nodes[1])
    with pytest.raises(KubeError, match=f"the node agent of {enforced.nodes[0]} may delete only pods of its own node"):
        as_agent(enforced, enforced.nodes[0]).delete_pod(meant(enforced, "trainer", uid), 30)
    assert enforced.find("trainer").metadata.deletion_timestamp is None


def test_the_agent_cannot_delete_a_pod_of_its_node_that_is_no_trainer(enforced: AgentCluster) -> None:
    uid = enforced.pod("other", enforced.nodes[0], trainer=False)
    with pytest.raises(KubeError, match=r"only pods that bear the label spottune\.dev/job"):
        as_agent(enforced, enforced.nodes[0]).delete_pod(meant(enforced, "other", uid), 30)


def test_a_token_of_the_agent_that_is_bound_to_no_node_deletes_nothing(enforced: AgentCluster) -> None:
    uid = enforced.pod("trainer", enforced.nodes[0])
    with pytest.raises(KubeError, match="the node agent of no node"):
        as_agent(enforced, None).delete_pod(meant(enforced, "trainer", uid), 30)


def test_a_deletion_meant_for_an_earlier_pod_of_the_name_spares_the_present_one(enforced: AgentCluster) -> None:
    enforced.pod("trainer", enforced.nodes[0])
    earlier = meant(enforced, "trainer", "6f1e0f3e-0000-4000-8000-000000000000")
    assert as_agent(enforced, enforced.nodes[0]).delete_pod(earlier, 30) is Deletion.GONE
    assert enforced.find("trainer").metadata.deletion_timestamp is None


def test_the_policy_is_only_for_the_agent(enforced: AgentCluster) -> None:
    enforced.pod("other", enforced.nodes[1], trainer=False)
    enforced.core.delete_namespaced_pod("other", enforced.namespace, grace_period_seconds=0)
    assert enforced.find("other") is None


def test_the_agent_sees_the_trainer_pods_of_its_node_only(enforced: AgentCluster) -> None:
    own = enforced.pod("trainer", enforced.nodes[0], address="198.18.1.9")
    enforced.pod("trainer-elsewhere", enforced.nodes[1])
    [pod] = as_agent(enforced, enforced.nodes[0]).trainer_pods(enforced.nodes[0])
    assert pod == TrainerPod(enforced.namespace, "trainer", own, "198.18.1.9", ending=False, finished=False)


@pytest.mark.parametrize(
    ("verb", "group", "resource", "name"),
    [
        ("list", "", "secrets", ""),
        ("create", "", "pods", ""),
        ("deletecollection", "", "pods", ""),
        ("create", "", "pods/eviction", "x"),
        ("patch", "", "pods", "x"),
        ("update", "", "nodes", "x"),
        ("create", "", "serviceaccounts/token", "spottune-agent"),
        ("update", "spottune.dev", "finetunejobs", "x"),
    ],
)
def test_the_agent_has_no_other_right(agent_cluster: AgentCluster, verb: str, group: str, resource: str, name: str) -> None:
    resource, _, subresource = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name}
    account = f"system:serviceaccount:{agent_cluster.namespace}:spottune-agent"
    review = client.AuthorizationV1Api(agent_cluster.core.api_client).create_subject_access_review(
        {
            "spec": {
                "user": account,
                "groups": ["system:serviceaccounts"],
                "resourceAttributes": {**attributes, "namespace": agent_cluster.namespace},
            }
        }
    )
    assert not review.status.allowed


def test_the_api_server_accepts_the_daemon_set_and_its_pods_outside_of_kube_system(agent_cluster: AgentCluster) -> None:
    [daemon_set] = [d for d in render("agent.yaml", namespace=agent_cluster.namespace) if d["kind"] == "DaemonSet"]
    apps = client.AppsV1Api(agent_cluster.core.api_client)
    apps.create_namespaced_daemon_set(agent_cluster.namespace, daemon_set, dry_run="All", field_validation="Strict")
    pod = {"metadata": {"name": "agent"}, "spec": daemon_set["spec"]["template"]["spec"]}
    admitted = agent_cluster.core.create_namespaced_pod(agent_cluster.namespace, pod, dry_run="All", field_validation="Strict")
    assert admitted.spec.priority == 2_000_001_000
