"""The pod that the operator makes, on a real node: what the kubelet's signal does to it from its first moment."""

from __future__ import annotations

import time
from typing import Any

import pytest
from kubernetes import client

from spottune_operator.manifests import TrainerDefaults, trainer_pod
from spottune_operator.observe import observe
from spottune_operator.planner.types import CreatePod
from tests.fixtures.jobs import job_manifest
from tests.fixtures.nodes import LocalNodes

pytestmark = pytest.mark.nodes


def pod_running(code: str, on: str) -> dict[str, Any]:
    """The operator's pod on a node of ours, with another program: its isolation, signals and grace time are what is tested."""
    job = job_manifest("signalled")
    job["metadata"] |= {"uid": "00000000-0000-0000-0000-000000000001", "generation": 1}
    action = CreatePod("signalled-e1-0", 1, 0, "*/*/spot", min_slot=0)
    pod = trainer_pod(observe(job, [], {}, now=1.0), action, TrainerDefaults(cluster="c", image="spottune.local/trainer:dev"))
    # Its job is not there: the garbage collector would take it away.
    del pod["metadata"]["ownerReferences"], pod["metadata"]["namespace"], pod["spec"]["affinity"]
    pod["spec"]["nodeName"] = on
    [container] = pod["spec"]["containers"]
    container |= {"command": ["python", "-c", code], "imagePullPolicy": "Never"}
    del container["startupProbe"], container["livenessProbe"]
    return pod


def test_a_sigterm_that_comes_before_the_trainer_listens_for_it_ends_it_at_once(local_nodes: LocalNodes) -> None:
    """As the first process of its own PID namespace it would not even notice: the kernel drops what such a process has no handler for."""
    on = local_nodes.add("g5.xlarge/us-east-1a/spot")
    pod = pod_running("import time; print('no handler yet', flush=True); time.sleep(600)", on.name)
    pod["spec"].pop("volumes"), pod["spec"]["containers"][0].pop("volumeMounts")
    name = local_nodes.core.create_namespaced_pod(local_nodes.namespace, pod).metadata.name
    local_nodes.until(lambda: local_nodes.core.read_namespaced_pod(name, local_nodes.namespace).status.phase == "Running", "it runs")
    local_nodes.until(lambda: "no handler" in local_nodes.core.read_namespaced_pod_log(name, local_nodes.namespace), "Python runs")
    begun = time.monotonic()
    local_nodes.core.delete_namespaced_pod(name, local_nodes.namespace, grace_period_seconds=60)

    def gone() -> bool:
        try:
            local_nodes.core.read_namespaced_pod(name, local_nodes.namespace)
        except client.ApiException as error:
            return bool(error.status == 404)
        return False

    local_nodes.until(gone, "the pod is gone", timeout=90)
    assert time.monotonic() - begun < 30
