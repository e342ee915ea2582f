"""What keeps Karpenter's drain from telling a pod that its machine goes: each trap with and without what the product does about it.

Real Karpenter, real kubelets, plain pods that are nobody's trainers: neither operator nor node agent looks after them.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.demo import product
from examples.demo.kube import Kube
from localcloud import ec2_events, interruption, seed
from localcloud.home import Home
from tests.e2e.waiting import until
from tests.fixtures.nodes import RESTRICTED

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

Json = dict[str, Any]
SPOT = product.ROOT / "examples" / "karpenter" / "spot.yaml"
NAMESPACE = "traps"
NOTICE_SECONDS = 50
PERIOD_SECONDS, GRACE_SECONDS = 60, 45
"""A pod that is held is evicted so long after the notice as these differ: in time, but not at once."""
HELD = {"annotations": {"karpenter.sh/do-not-disrupt": "true"}}
EVERYTHING = [{"operator": "Exists"}]
ALONE = {"trap": "alone"}
BUDGETED = {"labels": {"budget": "none"}}
PODS: dict[str, Json] = {
    "plain-bare": {},
    "held-bare": {"metadata": HELD},
    "held-timed": {"metadata": HELD},
    "tolerant-timed": {"spec": {"tolerations": EVERYTHING}},
    "budgeted-bare": {"metadata": BUDGETED},
    "budgeted-timed": {"metadata": BUDGETED},
}
"""By name, which ends with the NodePool's: `timed` has a terminationGracePeriod, `bare` has none."""


def node_pool(name: str) -> Json:
    """The example's pool under another name and for these pods alone."""
    pool: Json = copy.deepcopy(yaml.safe_load(SPOT.read_text()))
    pool["metadata"]["name"] = f"trap-{name}"
    template = pool["spec"]["template"]
    template["metadata"] = {"labels": {"trap": name}}
    template["spec"].pop("terminationGracePeriod")
    if name == "timed":
        template["spec"]["terminationGracePeriod"] = f"{PERIOD_SECONDS}s"
    return pool


def pod(name: str) -> Json:
    """A pod that has a machine for itself and ends at SIGTERM."""
    metadata = PODS[name].get("metadata", {})
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": ALONE}}
    made: Json = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, **metadata, "labels": ALONE | metadata.get("labels", {})},
        "spec": {
            "nodeSelector": {"trap": name.rpartition("-")[2]},
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "main",
                    "image": "spottune.local/trainer:dev",
                    "imagePullPolicy": "Never",
                    "command": ["python", "-c", "import signal, sys; signal.signal(15, lambda *_: sys.exit()); signal.pause()"],
                    "securityContext": RESTRICTED,
                }
            ],
        },
    }
    made["spec"] |= PODS[name].get("spec", {})
    return made


@pytest.fixture
def nodes(cluster_home: Path, product_installed: Kube) -> Iterator[dict[str, str]]:
    """Node of each pod, all of them running."""
    kube = product_installed
    budget = {"minAvailable": "100%", "selector": {"matchLabels": {"budget": "none"}}}
    kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "none", "namespace": NAMESPACE}, "spec": budget},
        *(node_pool(name) for name in ("bare", "timed")),
        *(pod(name) for name in PODS),
    )

    def placed() -> dict[str, str] | None:
        items = json.loads(kube.kubectl("get", "pods", "-n", NAMESPACE, "-o", "json"))["items"]
        running = {item["metadata"]["name"]: item["spec"]["nodeName"] for item in items if item["status"]["phase"] == "Running"}
        return running if running.keys() == PODS.keys() else None

    yield until(placed, "a machine for each pod")
    kube.kubectl("delete", "pods", "--all", "-n", NAMESPACE, "--force", "--grace-period=0")
    kube.kubectl("delete", "namespace", NAMESPACE, "--wait=true", "--timeout=60s")
    kube.kubectl("delete", "nodepool", "trap-bare", "trap-timed", "--wait=true", "--timeout=120s")


def test_t1_t2_t4_what_is_held_tolerates_or_is_budgeted_is_told_only_with_a_termination_grace_period(
    cluster_home: Path, product_installed: Kube, nodes: dict[str, str]
) -> None:
    home, kube = Home(cluster_home), product_installed
    assert len(set(nodes.values())) == len(PODS), "each has a machine for itself"
    ends = min(interruption.interrupt(home, node, notice_seconds=NOTICE_SECONDS).action_time for node in nodes.values()).timestamp()
    told: dict[str, float] = {}
    while time.time() < ends - 2:
        items = json.loads(kube.kubectl("get", "pods", "-n", NAMESPACE, "-o", "json"))["items"]
        staying = {item["metadata"]["name"] for item in items if "deletionTimestamp" not in item["metadata"]}
        for name in PODS.keys() - staying:
            told.setdefault(name, ends - time.time())
    assert told.keys() == {"plain-bare", "held-timed", "budgeted-timed"}, told
    assert told["plain-bare"] > told["held-timed"], "what is held is told late: the period less its own grace time"


def test_t3_karpenter_takes_from_its_queue_what_is_about_machines_of_others(cluster_home: Path, product_installed: Kube) -> None:
    cloud = seed.load(Home(cluster_home))
    assert cloud is not None
    sqs, url = seed.client("sqs", cloud.endpoint), cloud.karpenter_queue_url
    now = datetime.now(UTC)
    notice = ec2_events.interruption_warning("trap-3", "i-00000000000000000", "us-east-1a", "terminate", now, now)
    sqs.send_message(QueueUrl=url, MessageBody=json.dumps(notice))
    counts = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")

    def left(queue: str) -> int:
        attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=list(counts))["Attributes"]
        return sum(int(attributes[name]) for name in counts)

    unread = sqs.create_queue(QueueName="nobody-reads-this")["QueueUrl"]
    sqs.send_message(QueueUrl=unread, MessageBody=json.dumps(notice))
    until(lambda: left(url) == 0, "Karpenter deletes a notice of which nobody else has heard", 60)
    assert left(unread) == 1, "what nobody reads stays"
    sqs.delete_queue(QueueUrl=unread)
