"""Several operators and one Lease, with real signals: one acts, and another one does when it is stopped, killed or ended."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from kubernetes import client, config

from spottune_operator.leadership import LEASE
from spottune_operator.silence import NODE_LEASES
from tests.fixtures.chart import RELEASE_NAMESPACE
from tests.fixtures.hollow_nodes import HollowNodes
from tests.fixtures.operator_process import HollowTrainer, Jobs, OperatorProcess, await_value, stop_for_ever

pytestmark = pytest.mark.cluster

Start = Callable[..., OperatorProcess]
SECONDS = 8
SHORT = ("--lease-seconds", str(SECONDS))


@pytest.fixture(autouse=True)
def no_lease(kube: client.ApiClient) -> None:
    """Nobody has ever led."""
    client.CoordinationV1Api(kube).delete_collection_namespaced_lease(RELEASE_NAMESPACE)


def pair(start: Start, **first: str) -> tuple[OperatorProcess, OperatorProcess]:
    """The leader and one that stands by."""
    leader = start(*SHORT, identity="a", **first).await_leading()
    standby = start(*SHORT, identity="b").await_ready()
    assert (leader.leads(), standby.leads()) == (True, False)
    return leader, standby


def test_f43_a_leader_that_was_stopped_is_replaced_and_does_nothing_when_it_comes_back(
    start_operator: Start, jobs: Jobs, hollow_trainer: HollowTrainer
) -> None:
    """It is stopped between intent and create, the worst moment; and it leads again later."""
    leader, standby = pair(start_operator, failpoint="O2:stop")
    jobs.create()
    await_value(lambda: "failpoint O2 fired" in leader.text(), "the leader stops between intent and create")
    await_value(standby.leads, "the other one leads when the Lease has run out", SECONDS + 10)
    jobs.train(hollow_trainer, 1)
    jobs.vanish("job-e1-0")
    made = jobs.run("job-e2-0").metadata.uid
    leader.signal(signal.SIGCONT)
    await_value(lambda: leader.get("/readyz")[0] == 200, "the old leader is back", 30)
    assert "leading no more" in await_value(lambda: "leading no more" in leader.text() and leader.text(), "it knows that it is none")
    assert not leader.leads()
    assert [(pod.metadata.name, pod.metadata.uid) for pod in jobs.pods()] == [("job-e2-0", made)]
    stop_for_ever(standby)
    await_value(leader.leads, "the old leader leads again", 30)
    jobs.vanish("job-e2-0")
    jobs.await_pod("job-e3-0")
    assert [pod.metadata.name for pod in jobs.pods()] == ["job-e3-0"]
    status = jobs.status()
    assert (status["attempt"], status["interruptions"], status.get("failures", 0)) == (3, 2, 0)


def test_a_leader_that_was_killed_is_replaced_within_its_lease(start_operator: Start, jobs: Jobs, hollow_trainer: HollowTrainer) -> None:
    leader, standby = pair(start_operator)
    jobs.create()
    jobs.train(hollow_trainer, 1)
    leader.kill()
    jobs.vanish("job-e1-0")
    jobs.await_pod("job-e2-0", SECONDS + 10)
    assert standby.leads()
    assert jobs.status()["interruptions"] == 1


def test_one_that_stands_by_is_ready_and_writes_nothing_until_the_leader_ends_in_good_order(
    start_operator: Start, jobs: Jobs, kube: client.ApiClient
) -> None:
    leader, standby = pair(start_operator)
    jobs.create()
    jobs.await_pod("job-e1-0")
    assert standby.get("/readyz")[0] == standby.get("/healthz")[0] == 200
    assert leader.metric('spottune_actions_total{action="CreatePod",outcome="created"}') == 1
    assert "spottune_status_writes_total{" not in standby.get("/metrics")[1]
    assert "spottune_actions_total{" not in standby.get("/metrics")[1]
    leader.signal(signal.SIGTERM)
    assert leader.await_end() == 0, leader.text()[-3000:]
    lease = client.CoordinationV1Api(kube).read_namespaced_lease(LEASE, RELEASE_NAMESPACE)
    assert lease.spec.holder_identity in ("", "b"), "nobody has to wait for its end"
    await_value(standby.leads, "the other one leads")
    jobs.create("second")
    jobs.await_pod("second-e1-0")


def test_the_operators_rights_reach_its_own_lease_and_no_other(operator_kubeconfig: Path, kube: client.ApiClient) -> None:
    leases = client.CoordinationV1Api(config.new_client_from_config(str(operator_kubeconfig)))
    for name, namespace, refused in ((LEASE, RELEASE_NAMESPACE, False), ("other", RELEASE_NAMESPACE, True), (LEASE, "default", True)):
        attempts: tuple[Callable[[], object], ...] = (
            lambda n=name, ns=namespace: leases.replace_namespaced_lease(n, ns, {"metadata": {"name": n}, "spec": {}}),  # type: ignore[misc]
            lambda n=name, ns=namespace: leases.read_namespaced_lease(n, ns),  # type: ignore[misc]
        )
        for attempt in attempts:
            if refused:
                with pytest.raises(client.ApiException) as caught:
                    attempt()
                assert caught.value.status == 403
            else:
                attempt()
    with pytest.raises(client.ApiException) as caught:
        leases.delete_namespaced_lease(LEASE, RELEASE_NAMESPACE)
    assert caught.value.status == 403


def test_the_operator_may_read_the_leases_of_nodes_and_not_write_them(operator_kubeconfig: Path, hollow_nodes: HollowNodes) -> None:
    leases = client.CoordinationV1Api(config.new_client_from_config(str(operator_kubeconfig)))
    name, _ = hollow_nodes.add("c5.large", "us-east-1d")
    lease = leases.read_namespaced_lease(name, NODE_LEASES)
    for write in (leases.replace_namespaced_lease, leases.patch_namespaced_lease):
        with pytest.raises(client.ApiException) as caught:
            write(name, NODE_LEASES, lease)
        assert caught.value.status == 403
    hollow_nodes.remove(name)
