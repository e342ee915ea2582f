"""The pod of one attempt. Pure: a job, a decision and the installation's defaults in, a manifest out.

Every pod passes Pod Security `restricted`, holds no API token, and is owned by its job so that the garbage collector removes it
even while no operator runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spottune_contract.env import CREDENTIALS_DIR, NODE_VARIABLE, POD_UID_VARIABLE, SCRATCH_DIR, TERMINATION_PATH, RunEnv
from spottune_contract.labels import API_VERSION, COMPONENT, EPOCH, GROUP, JOB, KIND, POOL, RANK, TRAINER_CONTAINER, TRAINER_PORT
from spottune_operator import images
from spottune_operator.api.v1alpha1 import FineTuneJobSpec
from spottune_operator.planner.pools import Pool
from spottune_operator.planner.types import CreatePod, Observed

Json = dict[str, Any]

TRAINER_UID = 65532
UNREACHABLE_SECONDS = 30
"""A pod leaves a node that is not ready or unreachable after this long, instead of Kubernetes' 300 s."""
DO_NOT_DISRUPT = "karpenter.sh/do-not-disrupt"
_CREDENTIALS, _SCRATCH, _TMP = "storage-credentials", "scratch", "tmp"


@dataclass(frozen=True)
class TrainerDefaults:
    """What the installation, not the job, says of trainer pods."""

    cluster: str
    """Name of this cluster: part of every job's storage prefix."""
    image: str
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)
    """Resources of the trainer container where the job has none."""
    do_not_disrupt: bool = True
    """Keep Karpenter from consolidating a node under a running attempt. With it Karpenter no longer evicts the pod on a spot
    notice by itself, unless the NodePool has a terminationGracePeriod; agent and operator deliver the signal (design, trap T1)."""
    log_level: str = "info"


def trainer_pod(observed: Observed, action: CreatePod, defaults: TrainerDefaults) -> Json:
    """The manifest of the pod that `action` asks for. The job's spec must be readable."""
    spec = observed.spec
    assert spec is not None, "a pod is only ever planned for a spec that could be read"
    overrides = spec.pod_overrides
    annotations = {DO_NOT_DISRUPT: "true"} if defaults.do_not_disrupt else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": action.name,
            "namespace": observed.namespace,
            "labels": {**overrides.labels, **_labels(observed.name, action)},
            "annotations": {**annotations, **overrides.annotations, POOL: action.pool},
            "ownerReferences": [owner_reference(observed.name, observed.uid)],
        },
        "spec": _pod_spec(observed, spec, action, defaults),
    }


def owner_reference(job: str, uid: str) -> Json:
    """Controller reference to a job. It never blocks the job's deletion."""
    return {
        "apiVersion": f"{GROUP}/{API_VERSION}",
        "kind": KIND,
        "name": job,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _labels(job: str, action: CreatePod) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "spottune",
        "app.kubernetes.io/managed-by": "spottune-operator",
        COMPONENT: "trainer",
        JOB: job,
        EPOCH: str(action.epoch),
        RANK: str(action.rank),
    }


def _pod_spec(observed: Observed, spec: FineTuneJobSpec, action: CreatePod, defaults: TrainerDefaults) -> Json:
    overrides = spec.pod_overrides
    pod: Json = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": observed.settings.pod_grace,
        "automountServiceAccountToken": False,
        # Else the trainer is the first process of its PID namespace, and the kernel drops a SIGTERM that comes before its handler is there.
        "shareProcessNamespace": True,
        # A Service named `spottune` would otherwise put SPOTTUNE_PORT and its like into our environment.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": TRAINER_UID,
            "runAsGroup": TRAINER_UID,
            "fsGroup": TRAINER_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": _affinity(Pool.parse(action.pool)),
        "tolerations": [*_unreachable(), *(t.model_dump(mode="json", by_alias=True, exclude_none=True) for t in overrides.tolerations)],
        "containers": [_container(observed, spec, action, defaults)],
        "volumes": _volumes(spec.checkpoint.credentials_secret),
    }
    optional: Json = {
        "nodeSelector": dict(overrides.node_selector),
        "serviceAccountName": overrides.service_account_name,
        "priorityClassName": overrides.priority_class_name,
        "imagePullSecrets": [{"name": name} for name in defaults.image_pull_secrets],
    }
    return pod | {name: value for name, value in optional.items() if value}


def _unreachable() -> list[Json]:
    return [
        {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": UNREACHABLE_SECONDS}
        for state in ("not-ready", "unreachable")
    ]


def _affinity(pool: Pool) -> Json:
    """Only nodes of this pool. The terms are alternatives: Karpenter's (and plain) labels, or those of EKS managed node groups."""
    place = []
    if pool.instance_type:
        place.append(_in("node.kubernetes.io/instance-type", pool.instance_type))
    if pool.zone:
        place.append(_in("topology.kubernetes.io/zone", pool.zone))
    managed = "SPOT" if pool.capacity_type == "spot" else "ON_DEMAND"
    terms = [
        {"matchExpressions": [*place, _in("karpenter.sh/capacity-type", pool.capacity_type)]},
        {"matchExpressions": [*place, _in("eks.amazonaws.com/capacityType", managed)]},
    ]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def _in(key: str, value: str) -> Json:
    return {"key": key, "operator": "In", "values": [value]}


def _container(observed: Observed, spec: FineTuneJobSpec, action: CreatePod, defaults: TrainerDefaults) -> Json:
    overrides = spec.pod_overrides
    resources = overrides.resources.model_dump(mode="json", by_alias=True) if overrides.resources else dict(defaults.resources)
    mounts: list[Json] = [{"name": _SCRATCH, "mountPath": SCRATCH_DIR}, {"name": _TMP, "mountPath": "/tmp"}]  # noqa: S108 (the pod's own emptyDir)
    if spec.checkpoint.credentials_secret:
        mounts.append({"name": _CREDENTIALS, "mountPath": CREDENTIALS_DIR, "readOnly": True})
    return {
        "name": TRAINER_CONTAINER,
        "image": images.pinned(overrides.image, defaults.image, action.image_digest),
        "imagePullPolicy": defaults.image_pull_policy,
        "env": _environment(observed, spec, action, defaults),
        "resources": {kind: dict(amounts) for kind, amounts in resources.items() if amounts},
        "ports": [{"name": "http", "containerPort": TRAINER_PORT, "protocol": "TCP"}],
        "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # Importing torch on a busy node takes its time: five minutes until the server must answer.
        "startupProbe": _probe(period=5, failures=60),
        "livenessProbe": _probe(period=20, failures=3),
        "terminationMessagePath": TERMINATION_PATH,
        # A crash that left no message of ours is explained by the end of its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _probe(*, period: int, failures: int) -> Json:
    return {
        "httpGet": {"path": "/healthz", "port": TRAINER_PORT},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _environment(observed: Observed, spec: FineTuneJobSpec, action: CreatePod, defaults: TrainerDefaults) -> list[Json]:
    run = RunEnv(
        cluster=defaults.cluster,
        namespace=observed.namespace,
        job=observed.name,
        job_uid=observed.uid,
        epoch=action.epoch,
        rank=action.rank,
        min_slot=action.min_slot,
        handover=spec.handover,
        predecessor=action.predecessor,
        predecessor_until=action.predecessor_until,
        image_digest=action.image_digest,
        grace_seconds=observed.settings.pod_grace,
        credentials_dir=CREDENTIALS_DIR if spec.checkpoint.credentials_secret else "",
        log_level=defaults.log_level,
        run_spec=spec.run_spec(),
    )
    literals = {"HOME": SCRATCH_DIR, **{variable.name: variable.value for variable in spec.pod_overrides.env}, **run.to_environ()}
    downward = {POD_UID_VARIABLE: "metadata.uid", NODE_VARIABLE: "spec.nodeName"}
    return [
        *({"name": name, "value": literal(value)} for name, value in literals.items()),
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in downward.items()),
    ]


def literal(value: str) -> str:
    """`value` so that the kubelet hands it on unchanged: it expands `$(NAME)` and reads `$$` as `$`."""
    return value.replace("$", "$$")


def _volumes(credentials_secret: str | None) -> list[Json]:
    volumes: list[Json] = [{"name": _SCRATCH, "emptyDir": {}}, {"name": _TMP, "emptyDir": {}}]
    if credentials_secret:
        keys = [{"key": key, "path": key} for key in ("accessKeyId", "secretAccessKey")]
        volumes.append({"name": _CREDENTIALS, "secret": {"secretName": credentials_secret, "items": keys, "defaultMode": 0o440}})
    return volumes
