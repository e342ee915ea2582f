"""The real API server takes good jobs and refuses bad ones, naming the field and the remedy."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import yaml
from kubernetes import client

from localcloud.assets import binary
from localcloud.controlplane import ControlPlane
from spottune_contract.labels import API_VERSION, GROUP, PLURAL
from spottune_operator.api.v1alpha1 import FineTuneJobSpec, FineTuneJobStatus
from spottune_operator.planner.plan import plan
from spottune_operator.planner.types import Notice, PodState
from tests.fixtures.jobs import job_manifest, put
from tests.fixtures.observations import EPOCH, NOW, ended, log, observed, pod, progress

pytestmark = pytest.mark.cluster

Api = client.CustomObjectsApi


def create(api: Api, namespace: str, manifest: dict[str, Any]) -> dict[str, Any]:
    created: dict[str, Any] = api.create_namespaced_custom_object(
        GROUP, API_VERSION, namespace, PLURAL, manifest, field_validation="Strict"
    )
    return created


def refusal(api: Api, namespace: str, manifest: dict[str, Any]) -> str:
    with pytest.raises(client.ApiException) as caught:
        create(api, namespace, manifest)
    assert caught.value.status in (400, 422)
    message: str = json.loads(caught.value.body)["message"]
    return message


def test_a_good_job_is_taken_and_its_defaults_are_those_of_the_types(finetunejobs: Api, namespace: str) -> None:
    spec = create(finetunejobs, namespace, job_manifest())["spec"]
    assert spec["method"] == {"type": "lora", "rank": 8, "alpha": 32, "dropout": 0, "targetModules": ["all-linear"], "rslora": False}
    assert spec["limits"] == {"failures": 3, "noProgress": 3}
    parsed = FineTuneJobSpec.model_validate(spec)
    assert parsed == FineTuneJobSpec.model_validate(job_manifest()["spec"])
    again = parsed.model_dump(mode="json", by_alias=True, exclude_none=True)
    for section in ("model", "dataset", "method", "training", "checkpoint", "output", "capacity", "limits"):
        assert again[section] == spec[section], section


def test_a_minimal_job_is_taken(finetunejobs: Api, namespace: str) -> None:
    manifest = job_manifest(spec__method=None, spec__output=None, spec__capacity=None, spec__training={"epochs": 1})
    spec = create(finetunejobs, namespace, manifest)["spec"]
    assert FineTuneJobSpec.model_validate(spec).capacity.spot == "Only"


def test_everything_that_pod_overrides_allow_is_taken(finetunejobs: Api, namespace: str) -> None:
    overrides = {
        "image": "registry.example/trainer@sha256:" + "0" * 64,
        "resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"nvidia.com/gpu": "1"}},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "labels": {"team": "a"},
        "annotations": {"note": "anything"},
        "env": [{"name": "HF_HOME", "value": "/scratch/hf"}],
        "serviceAccountName": "trainer",
        "priorityClassName": "high",
    }
    spec = create(finetunejobs, namespace, job_manifest(spec__podOverrides=overrides))["spec"]
    assert FineTuneJobSpec.model_validate(spec).pod_overrides.resources is not None


def test_null_switches_gradient_clipping_off(finetunejobs: Api, namespace: str) -> None:
    manifest = job_manifest()
    manifest["spec"]["training"]["maxGradNorm"] = None
    spec = create(finetunejobs, namespace, manifest)["spec"]
    assert FineTuneJobSpec.model_validate(spec).training.max_grad_norm is None


BAD: dict[str, tuple[dict[str, object], str, str]] = {
    "an unknown field": ({"spec.training.learnRate": 0.1}, "spec.training.learnRate", "unknown field"),
    "an unknown section": ({"spec.tracking": {}}, "spec.tracking", "unknown field"),
    "a wrong type": ({"spec.training.maxSteps": "many"}, "spec.training.maxSteps", "integer"),
    "no model": ({"spec.model": None}, "spec.model", "Required"),
    "rank 0": ({"spec.method.rank": 0}, "spec.method.rank", "greater than or equal to 1"),
    "an unknown method": ({"spec.method.type": "magic"}, "spec.method.type", "lora"),
    "a learning rate of 0": ({"spec.training.learningRate": 0}, "spec.training.learningRate", "greater than 0"),
    "a bucket without scheme": ({"spec.checkpoint.storage": "my-bucket/x"}, "spec.checkpoint.storage", "write s3://BUCKET/PREFIX"),
    "a path that leaves its prefix": ({"spec.checkpoint.storage": "s3://bucket/../x"}, "spec.checkpoint.storage", "should match"),
    "an output without scheme": ({"spec.output.destination": "out"}, "spec.output.destination", "write s3://BUCKET/PREFIX"),
    "a source without scheme": ({"spec.resumeFrom.location": "bucket/x"}, "spec.resumeFrom.location", "write status.log.location"),
    "a source without a place": ({"spec.resumeFrom.step": 3}, "spec.resumeFrom.location", "Required"),
    "step 0 of another job": (
        {"spec.resumeFrom.location": "s3://bucket/x", "spec.resumeFrom.step": 0},
        "spec.resumeFrom.step",
        "greater than or equal to 1",
    ),
    "an interval of nothing": ({"spec.checkpoint.interval": "0s"}, "spec.checkpoint.interval", "at least 1s"),
    "a duration of nothing": ({"spec.maxDuration": "0m"}, "spec.maxDuration", "at least 1s"),
    "a retry token in words": ({"spec.retryToken": "try again"}, "spec.retryToken", "should match"),
    "an interval in words": ({"spec.checkpoint.interval": "soon"}, "spec.checkpoint.interval", "should match"),
    "steps and epochs": ({"spec.training.epochs": 2}, "spec.training.maxSteps", "exactly one"),
    "neither steps nor epochs": ({"spec.training.maxSteps": None}, "spec.training.maxSteps", "exactly one"),
    "a micro batch that does not divide": ({"spec.training.microBatchSize": 3}, "spec.training.microBatchSize", "must divide"),
    "evaluation without data": ({"spec.dataset.evalSource": None}, "spec.training.evalSteps", "set spec.dataset.evalSource"),
    "a hub model without revision": ({"spec.model.source": "hf://org/name"}, "spec.model.revision", "commit hash"),
    "a revision without hub": ({"spec.model.revision": "0" * 40}, "spec.model.revision", "remove it"),
    "a hub data set": ({"spec.dataset.source": "hf://org/name"}, "spec.dataset.source", "put it into a bucket"),
    "a pool twice": ({"spec.capacity.zones": ["a1", "a1"]}, "spec.capacity.zones", "Duplicate"),
    "half spot": ({"spec.capacity.spot": "Maybe"}, "spec.capacity.spot", '"Never"'),
    "no failure allowed": ({"spec.limits.failures": 0}, "spec.limits.failures", "greater than or equal to 1"),
    "a host path": ({"spec.podOverrides.volumes": [{"hostPath": {"path": "/"}}]}, "spec.podOverrides.volumes", "unknown field"),
    "the host's network": ({"spec.podOverrides.hostNetwork": True}, "spec.podOverrides.hostNetwork", "unknown field"),
    "privileges": ({"spec.podOverrides.securityContext": {"privileged": True}}, "spec.podOverrides.securityContext", "unknown field"),
    "a node by name": ({"spec.podOverrides.nodeName": "n1"}, "spec.podOverrides.nodeName", "unknown field"),
    "init containers": ({"spec.podOverrides.initContainers": []}, "spec.podOverrides.initContainers", "unknown field"),
    "a toleration of everything": (
        {"spec.podOverrides.tolerations": [{"operator": "Exists"}]},
        "spec.podOverrides.tolerations[0].key",
        "Required",
    ),
    "a toleration that exists with a value": (
        {"spec.podOverrides.tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        "spec.podOverrides.tolerations",
        "remove value",
    ),
    "foreign credentials by env": (
        {"spec.podOverrides.env": [{"name": "AWS_ACCESS_KEY_ID", "value": "x"}]},
        "spec.podOverrides.env",
        "reserved",
    ),
    "our own env": ({"spec.podOverrides.env": [{"name": "SPOTTUNE_EPOCH", "value": "9"}]}, "spec.podOverrides.env", "reserved"),
    "code by env": ({"spec.podOverrides.env": [{"name": "LD_PRELOAD", "value": "x"}]}, "spec.podOverrides.env", "reserved"),
    "a python path by env": ({"spec.podOverrides.env": [{"name": "PYTHONPATH", "value": "x"}]}, "spec.podOverrides.env", "reserved"),
    "a secret by env": (
        {"spec.podOverrides.env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        "valueFrom",
        "unknown field",
    ),
    "an env twice": ({"spec.podOverrides.env": [{"name": "A"}, {"name": "A"}]}, "spec.podOverrides.env", "Duplicate"),
    "our own label": ({"spec.podOverrides.labels": {"spottune.dev/job": "other"}}, "spec.podOverrides.labels", "another prefix"),
    "our own annotation": (
        {"spec.podOverrides.annotations": {"spottune.dev/pool": "x"}},
        "spec.podOverrides.annotations",
        "another prefix",
    ),
    "a pod without AppArmor": (
        {"spec.podOverrides.annotations": {"container.apparmor.security.beta.kubernetes.io/trainer": "unconfined"}},
        "spec.podOverrides.annotations",
        "another prefix",
    ),
    "a name that is too long": ({"metadata.name": "n" * 53}, "metadata.name", "shorter name"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_manifest_is_refused_with_field_and_remedy(finetunejobs: Api, namespace: str, case: str) -> None:
    changes, field, remedy = BAD[case]
    manifest = job_manifest()
    for path, value in changes.items():
        put(manifest, path, value)
    message = refusal(finetunejobs, namespace, manifest)
    assert field in message
    assert remedy in message


IMMUTABLE: dict[str, tuple[str, object]] = {
    "the model": ("spec.model.source", "s3://models/other"),
    "the data": ("spec.dataset.source", "s3://data/other.jsonl"),
    "the method": ("spec.method.rank", 16),
    "the learning rate": ("spec.training.learningRate", 0.1),
    "the number of steps": ("spec.training.maxSteps", 61),
    "the global batch": ("spec.training.globalBatchSize", 16),
    "when it evaluates": ("spec.training.evalSteps", None),
    "the seed": ("spec.training.seed", 1),
    "the storage": ("spec.checkpoint.storage", "s3://elsewhere/x"),
    "the output": ("spec.output.destination", "s3://elsewhere/x"),
    "that there is an output": ("spec.output", None),
    "that it starts from another job": ("spec.resumeFrom", {"location": "s3://bucket/x"}),
}


@pytest.mark.parametrize("case", IMMUTABLE)
def test_what_decides_the_result_cannot_be_changed(finetunejobs: Api, namespace: str, case: str) -> None:
    path, value = IMMUTABLE[case]
    job = create(finetunejobs, namespace, job_manifest())
    put(job, path, value)
    with pytest.raises(client.ApiException) as caught:
        finetunejobs.replace_namespaced_custom_object(GROUP, API_VERSION, namespace, PLURAL, "python-help", job)
    message = json.loads(caught.value.body)["message"]
    assert "create a new job" in message
    assert ".".join(path.split(".")[:2]) in message


def test_a_limit_that_was_switched_off_cannot_be_switched_on_later(finetunejobs: Api, namespace: str) -> None:
    manifest = job_manifest()
    manifest["spec"]["training"]["maxGradNorm"] = None
    job = create(finetunejobs, namespace, manifest)
    put(job, "spec.training.maxGradNorm", 1.0)
    with pytest.raises(client.ApiException) as caught:
        finetunejobs.replace_namespaced_custom_object(GROUP, API_VERSION, namespace, PLURAL, "python-help", job)
    assert "spec.training.maxGradNorm cannot be changed" in json.loads(caught.value.body)["message"]


MUTABLE: dict[str, tuple[str, object]] = {
    "the pools": ("spec.capacity.zones", ["us-east-1c"]),
    "the limits": ("spec.limits.failures", 9),
    "suspension": ("spec.suspend", True),
    "the interval of commits": ("spec.checkpoint.interval", "1m"),
    "the image": ("spec.podOverrides", {"image": "other"}),
    "the micro batch": ("spec.training.microBatchSize", 4),
    "cancelling": ("spec.cancel", True),
    "the longest duration": ("spec.maxDuration", "12h"),
    "the retry token": ("spec.retryToken", "after-the-bucket-was-mended"),
}


@pytest.mark.parametrize("case", MUTABLE)
def test_what_does_not_decide_the_result_can_be_changed(finetunejobs: Api, namespace: str, case: str) -> None:
    path, value = MUTABLE[case]
    job = create(finetunejobs, namespace, job_manifest())
    put(job, path, value)
    finetunejobs.replace_namespaced_custom_object(GROUP, API_VERSION, namespace, PLURAL, "python-help", job)


def test_a_cancelled_job_stays_cancelled(finetunejobs: Api, namespace: str) -> None:
    job = create(finetunejobs, namespace, job_manifest(spec__cancel=True))
    put(job, "spec.cancel", False)
    with pytest.raises(client.ApiException) as caught:
        finetunejobs.replace_namespaced_custom_object(GROUP, API_VERSION, namespace, PLURAL, "python-help", job)
    assert "spec.cancel cannot be taken back" in json.loads(caught.value.body)["message"]


def test_a_micro_batch_that_does_not_divide_the_global_one_is_refused_in_mid_job_too(finetunejobs: Api, namespace: str) -> None:
    job = create(finetunejobs, namespace, job_manifest())
    put(job, "spec.training.microBatchSize", 3)
    with pytest.raises(client.ApiException) as caught:
        finetunejobs.replace_namespaced_custom_object(GROUP, API_VERSION, namespace, PLURAL, "python-help", job)
    assert "must divide spec.training.globalBatchSize" in json.loads(caught.value.body)["message"]


def test_the_attempt_number_never_decreases(finetunejobs: Api, namespace: str) -> None:
    job = create(finetunejobs, namespace, job_manifest())
    for attempt in (3, 4):
        job["status"] = {"phase": "Starting", "attempt": attempt}
        job = finetunejobs.replace_namespaced_custom_object_status(GROUP, API_VERSION, namespace, PLURAL, "python-help", job)
    job["status"] = {"phase": "Starting", "attempt": 3}
    with pytest.raises(client.ApiException) as caught:
        finetunejobs.replace_namespaced_custom_object_status(GROUP, API_VERSION, namespace, PLURAL, "python-help", job)
    assert "status.attempt never decreases" in json.loads(caught.value.body)["message"]


def planned() -> dict[str, FineTuneJobStatus]:
    """Statuses as the planner writes them, with every field set somewhere."""
    view = log(head=9, commit_epoch=EPOCH, step=33, timings={"notice_to_commit": 3.21})
    assert view.last_commit is not None
    commit = view.last_commit.model_copy(update={"digests": {"adapter.safetensors": "0" * 64}, "at": "2027-01-15T08:00:00Z"})
    exact = {"exact": True, "reason": "StateVerified", "message": "m", "compute_class": "cpu"}
    report = progress(log=view.model_copy(update={"last_commit": commit}), eval_loss=1.5, checkpoint_seconds=3.0, exactness=exact)
    running = pod(progress=report, image="trainer@sha256:" + "0" * 64)
    seen = {
        "new": observed(status=FineTuneJobStatus()),
        "running": observed(running),
        "noticed": observed(running, notices=(Notice("n1", "Interruption", "sqs", NOW + 90),)),
        "unschedulable": observed(pod(PodState.SCHEDULING, unschedulable="0/3 nodes", created_at=NOW - 100)),
        "crashed": observed(ended(30, log=view)),
        "vanished": observed(),
        "done": observed(ended(0, log=view, output="s3://adapters/x")),
    }
    return {name: plan(found).status for name, found in seen.items()}


@pytest.mark.parametrize("name", planned())
def test_the_api_server_keeps_whole_what_the_planner_writes(finetunejobs: Api, namespace: str, name: str) -> None:
    job = create(finetunejobs, namespace, job_manifest())
    written = planned()[name]
    job["status"] = written.document()
    stored = finetunejobs.replace_namespaced_custom_object_status(
        GROUP, API_VERSION, namespace, PLURAL, "python-help", job, field_validation="Strict"
    )
    assert FineTuneJobStatus.parse(stored["status"]) == written
    assert stored["status"] == job["status"]


def test_kubectl_refuses_an_unknown_field_and_explains_the_known_ones(
    control_plane: ControlPlane, finetunejobs: Api, namespace: str
) -> None:
    def kubectl(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(binary("kubectl")), "--kubeconfig", str(control_plane.kubeconfig), "--namespace", namespace, *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)

    refused = kubectl("apply", "-f", "-", text=yaml.safe_dump(job_manifest(spec__surprise=1)))
    assert refused.returncode != 0
    assert 'unknown field "spec.surprise"' in refused.stderr
    applied = kubectl("apply", "-f", "-", text=yaml.safe_dump(job_manifest()))
    assert applied.returncode == 0, applied.stderr
    explained = kubectl("explain", "ftj.spec.checkpoint")
    assert "Where and how often the state is committed" in explained.stdout
    assert "honour conditional writes" in explained.stdout
    listed = kubectl("get", "ftj")
    for column in ("PHASE", "STEP", "%", "ETA", "LOSS", "CAPACITY", "ZONE", "INTERRUPTIONS", "AGE"):
        assert column in listed.stdout.splitlines()[0]
