"""What the operator promises when it, its rights, its quota or the API server fail. Row numbers are those of the fault table."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from kubernetes import client

from localcloud.controlplane import ControlPlane
from spottune_contract.exitcodes import ExitCode
from tests.fixtures.admission import await_refusal
from tests.fixtures.operator_process import HollowTrainer, Jobs, OperatorProcess, await_value, last_word

pytestmark = pytest.mark.cluster

Start = Callable[..., OperatorProcess]
Trainers = Callable[[], HollowTrainer]


@pytest.mark.parametrize("point", ["O1", "O2", "O3"])
def test_f36_f37_an_operator_killed_around_the_create_leaves_exactly_one_pod(start_operator: Start, jobs: Jobs, point: str) -> None:
    first = start_operator(failpoint=f"{point}:kill").await_ready()
    jobs.create()
    assert first.await_end() == -signal.SIGKILL
    assert f"failpoint {point} fired" in first.text()
    assert jobs.status().get("attempt", 0) == (0 if point == "O1" else 1)
    assert len(jobs.pods()) == (1 if point == "O3" else 0)
    made = [pod.metadata.uid for pod in jobs.pods()]
    start_operator().await_ready()
    pod = jobs.run("job-e1-0")
    jobs.await_phase("Starting")
    await_value(lambda: jobs.status().get("podUid") == pod.metadata.uid, "the pod is adopted")
    assert made in ([], [pod.metadata.uid])
    assert [p.metadata.name for p in jobs.pods()] == ["job-e1-0"]
    assert jobs.status()["attempt"] == 1


@pytest.mark.parametrize("point", ["O4", "O5"])
def test_an_operator_killed_around_the_accounting_counts_an_attempt_once(
    start_operator: Start, jobs: Jobs, hollow_trainer: HollowTrainer, point: str
) -> None:
    first = start_operator(failpoint=f"{point}:kill").await_ready()
    jobs.create()
    jobs.train(hollow_trainer, 1)
    jobs.vanish("job-e1-0")
    assert first.await_end() == -signal.SIGKILL
    start_operator().await_ready()
    jobs.await_pod("job-e2-0")
    status = jobs.status()
    assert (status["interruptions"], status["accounted"], status["attempt"]) == (1, 1, 2)


def test_f38_f48_without_an_operator_jobs_are_deleted_and_interruptions_wait(
    start_operator: Start, jobs: Jobs, hollow_trainer: HollowTrainer
) -> None:
    first = start_operator().await_ready()
    jobs.create("stays")
    jobs.create("goes")
    jobs.train(hollow_trainer, 1, "stays")
    jobs.await_pod("goes-e1-0")
    first.kill()
    jobs.delete("goes")
    assert jobs.get("goes") is None, "nothing of ours holds the job back"
    jobs.vanish("stays-e1-0")
    start_operator().await_ready()
    jobs.await_pod("stays-e2-0", 5)
    assert jobs.status("stays")["attempts"][0]["verdict"] == "Interrupted"


def test_f15_an_end_that_nobody_saw_is_no_failure(start_operator: Start, jobs: Jobs, hollow_trainer: HollowTrainer) -> None:
    first = start_operator().await_ready()
    jobs.create()
    jobs.train(hollow_trainer, 1)
    first.kill()
    jobs.vanish("job-e1-0")
    start_operator().await_ready()
    jobs.run("job-e2-0")
    jobs.finish("job-e2-0", ExitCode.DONE, last_word(2, ExitCode.DONE, 100))
    status = jobs.await_phase("Succeeded")
    assert (status.get("failures", 0), status["interruptions"]) == (0, 1)


def test_f43_two_operators_at_once_make_no_second_pod(start_operator: Start, jobs: Jobs, hollow_trainers: Trainers) -> None:
    """Both bear the same name in the Lease, so each of them believes that it leads: compare-and-swap is all that is left."""
    operators = [start_operator("--resync-seconds", "1"), start_operator("--resync-seconds", "1")]
    for operator in operators:
        operator.await_leading()
    names = [f"job{number}" for number in range(4)]
    for name in names:
        jobs.create(name)
    for epoch in (1, 2):
        for name in names:
            jobs.train(hollow_trainers(), epoch, name)
        assert len(jobs.pods()) == len(names)
        for name in names:
            jobs.vanish(f"{name}-e{epoch}-0")
    for name in names:
        jobs.await_pod(f"{name}-e3-0")
        status = jobs.status(name)
        assert (status["attempt"], status["interruptions"]) == (3, 2)
        assert [attempt["epoch"] for attempt in status["attempts"]] == [1, 2, 3]
    assert len(jobs.pods()) == len(names)


def test_f39_after_the_api_server_is_back_the_operator_acts_within_seconds(
    start_operator: Start, jobs: Jobs, control_plane: ControlPlane, hollow_trainer: HollowTrainer
) -> None:
    operator = start_operator().await_ready()
    jobs.create()
    jobs.train(hollow_trainer, 1)
    server = control_plane.apiserver()
    running = server.running()
    assert running is not None
    running.signal(signal.SIGKILL)
    await_value(lambda: operator.metric('spottune_api_errors_total{error="Unavailable"}') > 0, "the operator notices", 30)
    server.start()
    jobs.vanish("job-e1-0")
    jobs.await_pod("job-e2-0", 5)
    assert operator.exit_code() is None


def test_f56_a_quota_delays_and_costs_nothing(start_operator: Start, jobs: Jobs) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    jobs.core.create_namespaced_resource_quota(jobs.namespace, quota)
    await_refusal(jobs.core, jobs.namespace, "exceeded quota: none")
    start_operator().await_ready()
    jobs.create()
    jobs.await_phase("Waiting")
    answer = jobs.condition("CapacityAvailable")
    assert (answer["status"], answer["reason"]) == ("False", "QuotaExceeded")
    assert "exceeded quota: none" in answer["message"]
    jobs.core.delete_namespaced_resource_quota("none", jobs.namespace)
    jobs.await_pod("job-e1-0", 70)
    assert jobs.status().get("failures", 0) == 0


def test_f58_a_pod_that_admission_refuses_fails_the_job_with_the_servers_words(start_operator: Start, jobs: Jobs) -> None:
    start_operator().await_ready()
    limits = {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}
    jobs.core.create_namespaced_limit_range(jobs.namespace, {"metadata": {"name": "small"}, "spec": limits})
    await_refusal(jobs.core, jobs.namespace, "maximum cpu usage per Container is 1")
    jobs.create(podOverrides={"resources": {"requests": {"cpu": 8}, "limits": {"cpu": 8}}})
    jobs.await_phase("Failed")
    assert "maximum cpu usage per Container is 1" in jobs.condition("Accepted")["message"]
    assert jobs.pods() == []


def test_a_missing_service_account_is_waited_for(start_operator: Start, jobs: Jobs) -> None:
    start_operator().await_ready()
    jobs.create(podOverrides={"serviceAccountName": "later"})
    jobs.await_phase("Waiting")
    assert jobs.condition("CapacityAvailable")["reason"] == "ReferenceMissing"
    jobs.core.create_namespaced_service_account(jobs.namespace, {"metadata": {"name": "later"}})
    jobs.await_pod("job-e1-0", 70)


def test_f47_rights_that_were_taken_and_given_back_need_no_restart(start_operator: Start, jobs: Jobs, kube: client.ApiClient) -> None:
    operator = start_operator().await_ready()
    rbac = client.RbacAuthorizationV1Api(kube)
    binding = rbac.read_cluster_role_binding("spottune-operator")
    rbac.delete_cluster_role_binding("spottune-operator")
    try:
        await_value(lambda: operator.metric('spottune_api_errors_total{error="RightsMissing"}') > 0, "the operator says so", 30)
        jobs.create()
    finally:
        binding.metadata.resource_version = None
        rbac.create_cluster_role_binding(binding)
    jobs.await_pod("job-e1-0", 30)
    assert operator.exit_code() is None
    assert operator.get("/readyz")[0] == 200


def test_a_job_that_cannot_be_handled_does_not_hold_up_another(start_operator: Start, jobs: Jobs) -> None:
    """The foreign pod has the name that the first job needs, for ever."""
    foreign = {
        "metadata": {"name": "blocked-e1-0"},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "c",
                    "image": "x",
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    jobs.core.create_namespaced_pod(jobs.namespace, foreign)
    start_operator().await_ready()
    jobs.create("blocked")
    jobs.create("free")
    jobs.await_pod("free-e1-0", 5)
    await_value(lambda: jobs.condition("CapacityAvailable", "blocked").get("reason") == "PodNameTaken", "the job says what it waits for")
    assert "ownerReferences" not in jobs.core.read_namespaced_pod("blocked-e1-0", jobs.namespace).metadata.to_dict()
