"""The chart's agent on a real node: real kubelet, the node's metadata service, the node's own network and token."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubernetes import client

from localcloud import imds
from spottune_contract import labels
from tests.fixtures.agentcluster import installed_agent
from tests.fixtures.nodes import RESTRICTED, LocalNodes

pytestmark = pytest.mark.nodes

TRAINER = """
import http.server, signal, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        open("/dev/termination-log", "wb").write(body)
        self.send_response(202); self.end_headers()
    def log_message(self, *a): pass
signal.signal(signal.SIGTERM, lambda *a: sys.exit(10))
server = http.server.HTTPServer(("", 8471), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
signal.pause()
"""
"""Keeps what it is asked as its last word, and yields on SIGTERM."""


@pytest.fixture
def agent_namespace(local_nodes: LocalNodes) -> Iterator[str]:
    """Namespace of an installed agent (no Pod Security: it needs the host's network)."""
    name = f"{local_nodes.namespace}-system"
    local_nodes.core.create_namespace({"metadata": {"name": name}})
    with installed_agent(local_nodes.core.api_client, name, daemon_set=True):
        yield name
    local_nodes.core.delete_namespace(name)


def start_trainer(cluster: LocalNodes, on: str) -> None:
    container = {"name": "trainer", "image": "spottune.local/trainer:dev", "imagePullPolicy": "Never", "command": ["python", "-c", TRAINER]}
    spec = {
        "nodeName": on,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 100,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{**container, "securityContext": RESTRICTED, "readinessProbe": {"tcpSocket": {"port": 8471}, "periodSeconds": 1}}],
    }
    cluster.core.create_namespaced_pod(cluster.namespace, {"metadata": {"name": "trainer", "labels": {labels.JOB: "job"}}, "spec": spec})


def trainer_ready(cluster: LocalNodes) -> bool:
    conditions = cluster.core.read_namespaced_pod("trainer", cluster.namespace).status.conditions or ()
    return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)


def agent_ready(cluster: LocalNodes, namespace: str) -> bool:
    [daemon_set] = client.AppsV1Api(cluster.core.api_client).list_namespaced_daemon_set(namespace).items
    return bool(daemon_set.status.number_ready == 1)


def test_a_notice_on_the_nodes_metadata_reaches_the_trainer_which_then_yields_in_time(
    local_nodes: LocalNodes, agent_namespace: str
) -> None:
    on = local_nodes.add("g5.xlarge/us-east-1a/spot")
    start_trainer(local_nodes, on.name)
    local_nodes.until(lambda: trainer_ready(local_nodes), "the trainer listens")
    local_nodes.until(lambda: agent_ready(local_nodes, agent_namespace), "the agent runs")
    begin, deadline = time.monotonic(), datetime.now(UTC) + timedelta(seconds=60)
    imds.set_instance_action(local_nodes.home, on.name, "terminate", deadline)

    def ended() -> Any:
        """The end of the trainer's container; the pod's object goes soon after it."""
        for pod in local_nodes.core.list_namespaced_pod(local_nodes.namespace).items:
            for status in pod.status.container_statuses or ():
                if status.state.terminated:
                    return status.state.terminated
        return None

    end = local_nodes.until(ended, "the trainer has ended", timeout=30)
    assert time.monotonic() - begin < 30
    assert end.exit_code == 10
    assert json.loads(end.message) == {"source": "imds-spot", "deadline": float(int(deadline.timestamp()))}
