"""The pod of an attempt: what it must be, what a job may change of it and what not."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spottune_contract.env import CREDENTIALS_DIR, RunEnv
from spottune_contract.labels import EPOCH, JOB, POOL, RANK
from spottune_operator.api.v1alpha1 import FineTuneJobSpec
from spottune_operator.manifests import TrainerDefaults, literal, trainer_pod
from spottune_operator.planner.types import CreatePod, Observed

DEFAULTS = TrainerDefaults(cluster="prod", image="registry.example/trainer:1", resources={"requests": {"cpu": "1"}})
ACTION = CreatePod("job-e3-0", 3, 0, "g5.xlarge/us-east-1a/spot", min_slot=9)


def observed(**spec: Any) -> Observed:
    document = {
        "model": {"source": "/models/tiny"},
        "dataset": {"source": "/data/train.jsonl"},
        "training": {"maxSteps": 10},
        "checkpoint": {"storage": "s3://bucket/prefix"},
        **spec,
    }
    return Observed("job", "demo", "uid-1", 1, now=0.0, spec=FineTuneJobSpec.model_validate(document))


def pod(action: CreatePod = ACTION, defaults: TrainerDefaults = DEFAULTS, **spec: Any) -> dict[str, Any]:
    return trainer_pod(observed(**spec), action, defaults)


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    (only,) = manifest["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def as_the_kubelet_would(value: str) -> str:
    """Kubernetes' expansion with no variable defined: `$$` is `$`, an unknown `$(NAME)` stays."""
    return re.sub(r"\$\$", "$", value)


def environ(manifest: dict[str, Any]) -> dict[str, str]:
    return {v["name"]: as_the_kubelet_would(v["value"]) for v in container(manifest)["env"] if "value" in v}


def test_the_pod_is_named_labelled_and_owned_by_its_attempt() -> None:
    metadata = pod()["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("job-e3-0", "demo")
    assert (metadata["labels"][JOB], metadata["labels"][EPOCH], metadata["labels"][RANK]) == ("job", "3", "0")
    assert metadata["annotations"][POOL] == "g5.xlarge/us-east-1a/spot"
    (owner,) = metadata["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == ("uid-1", True, False)


def test_the_trainer_reads_back_what_the_operator_wrote() -> None:
    manifest = pod(checkpoint={"storage": "s3://bucket/prefix", "credentialsSecret": "s"})
    run = RunEnv.from_environ(environ(manifest) | {"SPOTTUNE_POD_UID": "p", "SPOTTUNE_NODE": "n"})
    assert (run.cluster, run.job_uid, run.epoch, run.min_slot) == ("prod", "uid-1", 3, 9)
    assert (run.credentials_dir, run.pod_uid) == (CREDENTIALS_DIR, "p")
    assert run.run_spec.checkpoint.credentials_secret == "s"
    downward = {v["name"]: v["valueFrom"]["fieldRef"]["fieldPath"] for v in container(manifest)["env"] if "valueFrom" in v}
    assert downward == {"SPOTTUNE_POD_UID": "metadata.uid", "SPOTTUNE_NODE": "spec.nodeName"}


@given(st.text(alphabet=st.sampled_from("$()ABHOME_ x"), max_size=30))
def test_no_value_is_expanded_by_the_kubelet(value: str) -> None:
    written = literal(value)
    assert as_the_kubelet_would(written) == value
    unescaped = re.sub(r"\$\$", "", written)
    assert "$(" not in unescaped


def test_every_pod_keeps_to_pod_security_restricted() -> None:
    spec = pod()["spec"]
    security = container(pod())["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "nodeName"} & spec.keys()
    assert all(volume.keys() & {"emptyDir", "secret"} for volume in spec["volumes"])


def test_the_pod_holds_no_api_token_never_restarts_and_has_its_time_to_save() -> None:
    spec = pod()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["shareProcessNamespace"] is True
    assert spec["restartPolicy"] == "Never"
    assert spec["terminationGracePeriodSeconds"] == 100


def test_it_leaves_a_dead_node_after_thirty_seconds_and_tolerates_nothing_without_a_key() -> None:
    tolerations = pod(podOverrides={"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]})["spec"]["tolerations"]
    assert {t["key"]: t.get("tolerationSeconds") for t in tolerations} == {
        "node.kubernetes.io/not-ready": 30,
        "node.kubernetes.io/unreachable": 30,
        "nvidia.com/gpu": None,
    }


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("g5.xlarge/us-east-1a/spot", {("node.kubernetes.io/instance-type", "g5.xlarge"), ("topology.kubernetes.io/zone", "us-east-1a")}),
        ("*/us-east-1a/spot", {("topology.kubernetes.io/zone", "us-east-1a")}),
        ("*/*/on-demand", set()),
    ],
)
def test_the_pool_becomes_node_affinity_for_karpenter_and_for_managed_node_groups(pool: str, expected: set[tuple[str, str]]) -> None:
    manifest = pod(CreatePod("job-e3-0", 3, 0, pool, min_slot=0))
    terms = manifest["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    found = [{(e["key"], e["values"][0]) for e in term["matchExpressions"]} for term in terms]
    spot = pool.endswith("spot")
    assert found == [
        expected | {("karpenter.sh/capacity-type", "spot" if spot else "on-demand")},
        expected | {("eks.amazonaws.com/capacityType", "SPOT" if spot else "ON_DEMAND")},
    ]


def test_credentials_are_files_of_the_named_secret_and_nothing_else() -> None:
    manifest = pod(checkpoint={"storage": "s3://bucket/prefix", "credentialsSecret": "mine"})
    (volume,) = [v for v in manifest["spec"]["volumes"] if "secret" in v]
    assert volume["secret"]["secretName"] == "mine"
    assert {item["key"] for item in volume["secret"]["items"]} == {"accessKeyId", "secretAccessKey"}
    (mount,) = [m for m in container(manifest)["volumeMounts"] if m["name"] == volume["name"]]
    assert (mount["mountPath"], mount["readOnly"]) == (CREDENTIALS_DIR, True)
    assert not any("valueFrom" in v and "secretKeyRef" in v["valueFrom"] for v in container(manifest)["env"])
    assert "secret" not in str(pod()["spec"]["volumes"])


def test_overrides_reach_the_pod_and_ours_win_where_both_speak() -> None:
    overrides = {
        "image": "other.example/trainer:2",
        "resources": {"limits": {"nvidia.com/gpu": 1}},
        "nodeSelector": {"team": "a"},
        "labels": {"team": "a", "app.kubernetes.io/name": "mine"},
        "annotations": {"karpenter.sh/do-not-disrupt": "false"},
        "env": [{"name": "HF_HUB_OFFLINE", "value": "$(HOME)"}],
        "serviceAccountName": "trainer",
        "priorityClassName": "batch",
    }
    manifest = pod(podOverrides=overrides)
    spec = manifest["spec"]
    assert container(manifest)["image"] == "other.example/trainer:2"
    assert container(manifest)["resources"] == {"limits": {"nvidia.com/gpu": 1}}
    assert (spec["nodeSelector"], spec["serviceAccountName"], spec["priorityClassName"]) == ({"team": "a"}, "trainer", "batch")
    assert manifest["metadata"]["labels"]["team"] == "a"
    assert manifest["metadata"]["labels"]["app.kubernetes.io/name"] == "spottune"
    assert manifest["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "false"
    assert environ(manifest)["HF_HUB_OFFLINE"] == "$(HOME)"


def test_consolidation_is_kept_away_unless_the_installation_says_otherwise() -> None:
    key = "karpenter.sh/do-not-disrupt"
    assert pod()["metadata"]["annotations"][key] == "true"
    free = TrainerDefaults(cluster="prod", image="x", do_not_disrupt=False)
    assert key not in pod(defaults=free)["metadata"]["annotations"]


DIGEST = "sha256:" + "a" * 64


def test_a_chart_upgrade_to_another_repository_does_not_move_a_running_job() -> None:
    upgraded = TrainerDefaults(cluster="prod", image="new.example/trainer:2")
    later = pod(defaults=upgraded, action=replace(ACTION, image_digest=f"registry.example/trainer@{DIGEST}"))
    assert container(later)["image"] == f"registry.example/trainer@{DIGEST}"
    assert container(pod(defaults=upgraded))["image"] == "new.example/trainer:2"
