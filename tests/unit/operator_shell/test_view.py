"""What the operator remembers of a cluster: enough to decide, no more, and never older than what it has heard."""

from __future__ import annotations

from typing import Any

import pytest

from spottune_contract.labels import EPOCH, JOB, POOL
from spottune_operator.observe import observe
from spottune_operator.planner.types import Obstacle, ObstacleKind
from spottune_operator.view import JobKey, Listing, View, slim_job, slim_pod
from tests.fixtures.jobs import job_manifest

Json = dict[str, Any]
KEY = JobKey("demo", "python-help")
NOW = 1_800_000_000.0


def job(version: int = 1, **status: Any) -> Json:
    manifest = job_manifest(namespace="demo")
    fields = [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {}}}]
    manifest["metadata"] |= {"uid": "job-uid", "generation": 2, "resourceVersion": str(version), "managedFields": fields}
    return manifest | {"status": {"phase": "Running", "attempt": 1, "podUid": "u1", **status}}


def pod(version: int = 1, **status: Any) -> Json:
    owner = {"apiVersion": "spottune.dev/v1alpha1", "kind": "FineTuneJob", "name": KEY.name, "uid": "job-uid", "controller": True}
    metadata = {
        "name": "python-help-e1-0",
        "namespace": "demo",
        "uid": "u1",
        "resourceVersion": str(version),
        "labels": {JOB: KEY.name, EPOCH: "1", "team": "a"},
        "annotations": {POOL: "g5.xlarge/*/spot", "karpenter.sh/do-not-disrupt": "true"},
        "ownerReferences": [owner],
        "creationTimestamp": "2027-01-15T08:00:00Z",
        "managedFields": [{"manager": "kubelet"}],
    }
    containers = [{"name": "trainer", "image": "trainer:1", "env": [{"name": "A", "value": "b"}]}, {"name": "side", "image": "other:1"}]
    return {
        "metadata": metadata,
        "spec": {"nodeName": "n1", "containers": containers, "tolerations": []},
        "status": {"phase": "Running", "podIP": "10.0.0.1", **status},
    }


def container(**state: Any) -> Json:
    return {
        "containerStatuses": [
            {"name": "side", "state": {}},
            {"name": "trainer", "imageID": "trainer@sha256:ab", "state": state, "ready": True},
        ]
    }


def condition(kind: str, status: str, reason: str) -> Json:
    return {
        "conditions": [
            {"type": kind, "status": status, "reason": reason, "message": "so it is", "lastTransitionTime": "2027-01-15T08:00:00Z"}
        ]
    }


PODS = {
    "running": pod(**container(running={"startedAt": "2027-01-15T08:00:01Z"})),
    "waiting": pod(**container(waiting={"reason": "ErrImagePull", "message": "no such image"})),
    "ended": pod(**container(terminated={"exitCode": 10, "reason": "Error", "message": "bye", "finishedAt": "2027-01-15T08:00:09Z"})),
    "unschedulable": pod(phase="Pending", podIP="", **condition("PodScheduled", "False", "Unschedulable")),
    "evicted": pod(phase="Failed", reason="Evicted", **condition("DisruptionTarget", "True", "TerminationByKubelet")),
    "leaving": {**pod(), "metadata": {**pod()["metadata"], "deletionTimestamp": "2027-01-15T08:00:00Z"}},
    "bare": {"metadata": pod()["metadata"]},
}


@pytest.mark.parametrize("which", PODS)
def test_what_is_kept_of_a_job_and_its_pods_is_all_that_a_decision_depends_on(which: str) -> None:
    node = {"metadata": {"name": "n1", "labels": {}}, "status": {"conditions": []}}
    full, seen = PODS[which], job()
    assert observe(slim_job(seen), [slim_pod(full)], {"n1": node}, now=NOW) == observe(seen, [full], {"n1": node}, now=NOW)
    assert "managedFields" not in str(slim_job(seen)) + str(slim_pod(full))


def test_an_edit_that_no_decision_depends_on_is_no_news() -> None:
    view = View()
    assert view.put_job(job())
    assert view.put_pod(pod()) == KEY
    touched_job, touched_pod = job(2), pod(2)
    touched_job["metadata"]["annotations"] = touched_pod["metadata"]["annotations"] | {"seen": "yes"}
    touched_pod["metadata"]["annotations"]["seen"] = "yes"
    assert not view.put_job(touched_job)
    assert view.put_pod(touched_pod) is None
    assert view.put_job(job(3, step=7))
    assert view.put_pod(pod(3, phase="Failed")) == KEY


def test_a_jobs_pods_are_found_by_the_job() -> None:
    view = View()
    view.put_job(job())
    view.put_pod(pod())
    assert view.job(KEY) == slim_job(job())
    assert view.pods_of(KEY) == [slim_pod(pod())]
    assert view.drop_pod("demo", "python-help-e1-0", "another") is None
    assert view.drop_pod("demo", "python-help-e1-0", "u1") == KEY
    assert view.pods_of(KEY) == []


def listed(view: View, jobs: list[Json], pods: list[Json], meanwhile: Any = lambda: None) -> set[JobKey]:
    changed: set[JobKey] = set()
    listing = Listing(view, changed)
    meanwhile()
    listing.jobs(jobs)
    listing.pods(pods)
    listing.nodes([])
    listing.close()
    return changed


def test_a_list_shows_what_the_watch_has_missed_and_only_that() -> None:
    view = View()
    assert listed(view, [job()], [pod()]) == {KEY}
    assert listed(view, [job()], [pod()]) == set()
    assert listed(view, [job()], [pod(2, phase="Failed")]) == {KEY}
    assert listed(view, [job()], []) == {KEY}
    assert (view.pods, view.pods_of(KEY)) == ({}, [])
    listed(view, [], [])
    assert view.jobs == {}


def test_what_the_watch_tells_while_a_list_is_read_is_newer_than_the_list() -> None:
    view = View()
    listed(view, [job()], [pod()])

    def meanwhile() -> None:
        view.heard |= {("job", "demo", "python-help"), ("pod", "demo", "python-help-e1-0")}
        view.put_job(job(9, step=9))
        view.drop_pod("demo", "python-help-e1-0", "u1")

    assert listed(view, [job()], [pod()], meanwhile) == set()
    assert view.pods == {}, "a pod that the watch told to be gone does not come back"
    remembered = view.job(KEY)
    assert remembered is not None
    assert remembered["status"]["step"] == 9
    assert listed(view, [job()], [pod()]) == {KEY}, "the next list counts again: after a restored backup versions go back"


@pytest.mark.parametrize("nonsense", [5, ["x"], {"attempts": 5, "pools": 5, "phase": 5}, {"attempts": [5, {"pool": 1}], "pools": [None]}])
def test_whatever_stands_in_a_status_is_remembered(nonsense: object) -> None:
    view = View()
    assert view.put_job(job() | {"status": nonsense})
    assert (view.jobs[KEY].phase, view.jobs[KEY].trouble, view.jobs[KEY].machines) == ("Pending", (), ())


def test_of_what_is_gone_or_made_anew_under_its_name_nothing_is_kept() -> None:
    view = View()
    obstacle = Obstacle(ObstacleKind.QUOTA, 1, "full", NOW)

    def fill() -> None:
        view.put_job(job())
        view.put_pod(pod())
        view.obstacles, view.silent = {"job-uid": obstacle}, {"u1": NOW}

    fill()
    view.drop_job(KEY)
    view.drop_pod("demo", "python-help-e1-0", "u1")
    assert (view.obstacles, view.silent) == ({}, {})
    fill()
    another_job, another_pod = job(), pod()
    another_job["metadata"]["uid"] = "other"
    another_pod["metadata"] |= {"uid": "u2", "labels": {JOB: "other", EPOCH: "1"}}
    assert view.put_job(another_job)
    assert view.put_pod(another_pod) == JobKey("demo", "other")
    assert (view.obstacles, view.silent, view.pods_of(KEY)) == ({}, {}, [])
