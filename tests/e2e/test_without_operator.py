"""The operator is away: jobs keep training, a notice is still answered with a commit, and deleting works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from examples.demo import kills, product, proof
from examples.demo.kills import Kill, Kind
from examples.demo.kube import Kube
from examples.demo.run import remove
from localcloud.home import Home
from spottune_cli.jobs import JobNotFound, Jobs
from spottune_contract.labels import JOB, pod_name
from spottune_contract.layout import job_location
from spottune_contract.progress import Progress
from spottune_contract.records import Claim, Commit, Resume
from tests.e2e.waiting import until

NAME = "without-operator"
Found = TypeVar("Found")


def scale_operator(kube: Kube, replicas: int) -> None:
    system = ("-n", product.SYSTEM_NAMESPACE)
    kube.kubectl("scale", "deployment/spottune-operator", f"--replicas={replicas}", *system)
    if replicas:
        kube.kubectl("rollout", "status", "deployment/spottune-operator", "--timeout=120s", *system)
    else:
        kube.kubectl("wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=operator", "--timeout=120s", *system)


@pytest.fixture
def kube(product_installed: Kube) -> Iterator[Kube]:
    """The operator runs again afterwards, whatever a test did."""
    remove(product_installed, NAME)
    yield product_installed
    scale_operator(product_installed, 1)
    remove(product_installed, NAME)


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_without_the_operator_training_goes_on_a_notice_is_answered_and_delete_works(cluster_home: Path, kube: Kube) -> None:
    home = Home(cluster_home)
    jobs, s3 = Jobs(product.NAMESPACE, str(kube.kubeconfig)), product.storage(home)
    job = product.job(NAME)
    # Else a periodic commit may have kept the newest step a moment before the notice, which then has nothing to commit.
    job["spec"]["checkpoint"]["interval"] = "1h"
    kube.apply(job)
    uid = jobs.get(NAME)["metadata"]["uid"]
    root = job_location(job["spec"]["checkpoint"]["storage"], product.CLUSTER_NAME, product.NAMESPACE, uid)

    def progress(epoch: int, step: int) -> Progress | None:
        told = kube.progress(product.NAMESPACE, pod_name(NAME, epoch))
        return told if told is not None and told.step >= step else None

    def record(kind: type[Found], epoch: int) -> Found | None:
        return next((r for r in proof.read_log(s3, root) if isinstance(r, kind) and r.epoch == epoch), None)  # type: ignore[attr-defined]

    until(lambda: progress(1, 2), "two steps of the first attempt")
    scale_operator(kube, 0)
    seen = until(lambda: progress(1, 4), "training goes on without the operator")

    node = kube.kubectl("get", "pod", pod_name(NAME, 1), "-n", product.NAMESPACE, "-o", "jsonpath={.spec.nodeName}")
    kills.carry_out(home, node, pod_name(NAME, 1), Kill(seen.step, Kind.NOTICE, notice_seconds=45), kube)
    noticed = until(
        lambda: next((r for r in proof.read_log(s3, root) if isinstance(r, Commit) and r.reason in ("notice", "sigterm")), None),
        "the notice is answered with a commit",
        60,
    )
    assert noticed.step >= seen.step

    scale_operator(kube, 1)
    until(lambda: record(Claim, 2), "the operator, back again, starts the next attempt")
    resume = until(lambda: record(Resume, 2), "the second attempt resumes")
    commits = {r.slot: r for r in proof.read_log(s3, root) if isinstance(r, Commit)}
    newest = max(slot for slot, commit in commits.items() if commit.epoch == 1)
    assert resume.parent == newest
    assert commits[newest].step >= noticed.step

    until(lambda: progress(2, commits[newest].step + 1), "the next step")
    scale_operator(kube, 0)
    begun = time.monotonic()
    kube.kubectl("delete", "ftj", NAME, "-n", product.NAMESPACE, "--wait=true", "--timeout=30s")
    assert time.monotonic() - begun < 10
    with pytest.raises(JobNotFound):
        jobs.get(NAME)
    until(
        lambda: not kube.kubectl("get", "pods", "-n", product.NAMESPACE, "-l", f"{JOB}={NAME}", "-o", "name").strip(),
        "garbage collection ends the trainer without the operator",
    )
