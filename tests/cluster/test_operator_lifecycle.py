"""The real operator, with the chart's rights, on a real control plane: what a job's life looks like from outside."""

from __future__ import annotations

from typing import Any

import pytest

from spottune_contract.exitcodes import ExitCode
from spottune_contract.labels import EPOCH, JOB, POOL
from tests.fixtures.operator_process import HollowTrainer, Jobs, OperatorProcess, await_value, last_word, report

pytestmark = pytest.mark.cluster


def test_a_job_becomes_one_restricted_pod_that_it_owns(operator: OperatorProcess, jobs: Jobs) -> None:
    job = jobs.create(capacity={"instanceTypes": ["g6.xlarge"], "zones": ["us-east-1b"]})
    pod = jobs.await_pod("job-e1-0")
    owner = pod.metadata.owner_references[0]
    assert (owner.uid, owner.controller, owner.block_owner_deletion) == (job["metadata"]["uid"], True, False)
    assert pod.metadata.labels[JOB] == "job"
    assert pod.metadata.labels[EPOCH] == "1"
    assert pod.metadata.annotations[POOL] == "g6.xlarge/us-east-1b/spot"
    assert not any(volume.projected for volume in pod.spec.volumes), "no API token"
    node = await_value(lambda: jobs.pod("job-e1-0").spec.node_name, "the scheduler finds the node of the pool")
    labels = jobs.core.read_node(node).metadata.labels
    assert labels["node.kubernetes.io/instance-type"] == "g6.xlarge"


def test_a_running_trainer_is_shown_on_the_job(operator: OperatorProcess, jobs: Jobs, hollow_trainer: HollowTrainer) -> None:
    job = jobs.create()
    jobs.run("job-e1-0", hollow_trainer.ip)
    hollow_trainer.progress = report(job, 1, 42)
    status = jobs.await_phase("Running")
    await_value(lambda: jobs.status().get("step") == 42, "the step is shown")
    status = jobs.status()
    assert (status["totalSteps"], status["loss"], status["attempt"]) == (100, 1.5, 1)
    assert status["node"] == jobs.pod("job-e1-0").spec.node_name


def test_a_pod_that_vanishes_is_an_interruption_and_the_next_attempt_follows(
    operator: OperatorProcess, jobs: Jobs, hollow_trainer: HollowTrainer
) -> None:
    job = jobs.create()
    jobs.run("job-e1-0", hollow_trainer.ip)
    hollow_trainer.progress = report(job, 1, 42, committed=40)
    await_value(lambda: jobs.status().get("lastCommit", {}).get("step") == 40, "the commit is known")
    jobs.vanish("job-e1-0")
    second = jobs.await_pod("job-e2-0")
    status = jobs.status()
    assert (status["attempt"], status["interruptions"], status.get("failures", 0)) == (2, 1, 0)
    assert status["attempts"][0]["verdict"] == "Interrupted"
    environment = {variable.name: variable.value for variable in second.spec.containers[0].env}
    assert environment["SPOTTUNE_EPOCH"] == "2"
    assert environment["SPOTTUNE_MIN_SLOT"] == "6", "the log must be at least as long as was heard"


def test_a_trainer_that_is_done_makes_the_job_succeed(operator: OperatorProcess, jobs: Jobs) -> None:
    jobs.create()
    jobs.run("job-e1-0")
    jobs.finish("job-e1-0", ExitCode.DONE, last_word(1, ExitCode.DONE, 100))
    status = jobs.await_phase("Succeeded")
    assert status["step"] == 100
    assert jobs.condition("Complete")["status"] == "True"
    await_value(lambda: any(event.reason == "Succeeded" for event in jobs.events()), "the event is told")


def test_a_permanent_error_fails_the_job_at_once_with_the_trainers_own_words(operator: OperatorProcess, jobs: Jobs) -> None:
    jobs.create()
    jobs.run("job-e1-0")
    words = "s3://bucket/prefix: no rights to write log/: give the pod's role s3:PutObject"
    jobs.finish("job-e1-0", ExitCode.STORAGE_DENIED, last_word(1, ExitCode.STORAGE_DENIED, 0, message=words))
    status = jobs.await_phase("Failed")
    assert status["attempt"] == 1
    assert "s3:PutObject" in jobs.condition("Complete")["message"]


def test_nothing_is_written_while_nothing_changes(operator: OperatorProcess, jobs: Jobs, hollow_trainer: HollowTrainer) -> None:
    job = jobs.create()
    jobs.run("job-e1-0", hollow_trainer.ip)
    hollow_trainer.progress = report(job, 1, 7)
    await_value(lambda: jobs.status().get("step") == 7, "the step is shown")
    settled = await_value(lambda: _unchanged(jobs), "the job comes to rest", 15)
    polls = operator.metric('spottune_progress_polls_total{outcome="answered"}')
    await_value(lambda: operator.metric('spottune_progress_polls_total{outcome="answered"}') > polls + 6, "the trainer was asked again")
    assert jobs.get()["metadata"]["resourceVersion"] == settled  # type: ignore[index]


def _unchanged(jobs: Jobs) -> Any:
    versions = set()
    for _ in range(20):
        versions.add(jobs.get()["metadata"]["resourceVersion"])  # type: ignore[index]
        jobs.pods()
    return versions.pop() if len(versions) == 1 else None


def test_a_cancelled_job_commits_and_is_over(operator: OperatorProcess, jobs: Jobs, hollow_trainer: HollowTrainer) -> None:
    jobs.create()
    jobs.train(hollow_trainer, 1)
    jobs.patch("job", {"spec": {"cancel": True}})
    await_value(lambda: jobs.pod("job-e1-0").metadata.deletion_timestamp, "the trainer gets its SIGTERM")
    assert jobs.pod("job-e1-0").metadata.deletion_grace_period_seconds == 100
    jobs.finish("job-e1-0", ExitCode.YIELDED, last_word(1, ExitCode.YIELDED, 17))
    status = jobs.await_phase("Cancelled")
    assert (status["attempts"][0]["stepTo"], status["interruptions"]) == (17, 0)
    assert jobs.condition("Complete")["reason"] == "Cancelled"
    jobs.vanish("job-e1-0")
    jobs.patch("job", {"spec": {"retryToken": "again"}})
    await_value(lambda: jobs.status()["observedGeneration"] < jobs.get()["metadata"]["generation"], "the edit is there")  # type: ignore[index]
    assert (jobs.phase(), jobs.pods()) == ("Cancelled", [])


def test_a_job_that_is_out_of_time_commits_and_fails_and_goes_on_when_it_is_retried(
    operator: OperatorProcess, jobs: Jobs, hollow_trainer: HollowTrainer
) -> None:
    jobs.create(maxDuration="2s")
    jobs.train(hollow_trainer, 1)
    await_value(lambda: jobs.pod("job-e1-0").metadata.deletion_timestamp, "the trainer gets its SIGTERM")
    jobs.finish("job-e1-0", ExitCode.YIELDED, last_word(1, ExitCode.YIELDED, 17))
    status = jobs.await_phase("Failed")
    assert status["activeSeconds"] >= 2
    answer = jobs.condition("Complete")
    assert answer["reason"] == "MaxDurationReached"
    assert "spec.retryToken" in answer["message"]
    jobs.vanish("job-e1-0")
    jobs.patch("job", {"spec": {"maxDuration": "1h", "retryToken": "more-time"}})
    environment = {variable.name: variable.value for variable in jobs.await_pod("job-e2-0").spec.containers[0].env}
    assert environment["SPOTTUNE_MIN_SLOT"] == "6", "it goes on from what was committed"
    assert jobs.status()["retryToken"] == "more-time"
    assert "activeSeconds" not in jobs.status()


def test_a_deleted_job_takes_its_pod_along_and_nothing_new_is_made(operator: OperatorProcess, jobs: Jobs) -> None:
    job = jobs.create()
    jobs.run("job-e1-0")
    assert "finalizers" not in job["metadata"]
    jobs.delete()
    assert jobs.get() is None
    # The garbage collector looks for new kinds every 30 s: a CRD that was just installed may be news to it.
    await_value(lambda: jobs.pod("job-e1-0").metadata.deletion_timestamp, "the trainer gets its SIGTERM", 60)
    assert jobs.pod("job-e1-0").metadata.deletion_grace_period_seconds == 100
    jobs.vanish("job-e1-0")
    assert jobs.pods() == []


def test_a_job_that_is_made_again_under_its_name_waits_for_the_old_pod(operator: OperatorProcess, jobs: Jobs) -> None:
    jobs.create()
    old = jobs.run("job-e1-0").metadata.uid
    jobs.delete()
    await_value(lambda: jobs.pod("job-e1-0").metadata.deletion_timestamp, "the old pod is ending", 60)
    again = jobs.create()
    await_value(lambda: jobs.status().get("attempt") == 1, "the new job has its first attempt")
    assert jobs.pod("job-e1-0").metadata.uid == old
    jobs.vanish("job-e1-0")
    owner = await_value(lambda: [o.uid for pod in jobs.pods() for o in pod.metadata.owner_references], "the new job's pod", 60)
    assert owner == [again["metadata"]["uid"]]
