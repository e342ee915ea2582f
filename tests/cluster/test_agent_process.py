"""The agent as a process, between a real API server, a metadata service and a trainer's endpoint."""

from __future__ import annotations

import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from spottune_agent.notice import REBALANCE, SPOT_ACTION
from spottune_contract.progress import CheckpointRequest
from tests.fixtures.agentcluster import AgentCluster, await_until
from tests.fixtures.metadata import Metadata, serving

pytestmark = pytest.mark.cluster


@dataclass
class Trainer:
    """A trainer's HTTP endpoint that keeps what it was asked."""

    port: int = 0
    requests: list[CheckpointRequest] = field(default_factory=list)
    refusals: int = 0
    """How many requests it still answers with 503."""


@contextmanager
def trainer_endpoint() -> Iterator[Trainer]:
    trainer = Trainer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            refused, trainer.refusals = trainer.refusals > 0, max(0, trainer.refusals - 1)
            if not refused and self.path == "/checkpoint":
                trainer.requests.append(CheckpointRequest.model_validate_json(body))
            self.send_response(503 if refused else 202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    trainer.port = server.server_address[1]
    yield trainer
    server.shutdown()
    server.server_close()


class Gate:
    """A TCP relay to the API server that can be shut: connections through it are dropped, new ones refused."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target, self.open = target, True
        self._pairs: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        self.open = False
        for end in self._pairs:
            with_shutdown(end)

    def close(self) -> None:
        self.shut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self.open:
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._pairs += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                sink.sendall(piece)
        except OSError:
            pass
        with_shutdown(sink)


def with_shutdown(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


@dataclass
class World:
    cluster: AgentCluster
    metadata: Metadata
    trainer: Trainer
    gate: Gate
    token_file: Path
    process: subprocess.Popen[str]
    log: Path
    health_port: int

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines with this event name, so far."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if line["event"] == name]

    def announce(self, seconds: float, action: str = "terminate") -> float:
        """A spot notice that ends in `seconds`; returns its deadline."""
        at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        self.metadata.documents[SPOT_ACTION] = json.dumps({"action": action, "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode()
        return float(int(at.timestamp()))

    def remembered(self, count: int) -> None:
        """Wait until the agent knows the addresses of `count` trainer pods."""
        await_until(lambda: len([a for a in self.health()["pods"].values() if a]) == count, f"the agent knows {count} trainer pods")

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/healthz", timeout=5) as response:
            return dict(json.load(response))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def world(agent_cluster: AgentCluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """An agent for the first node, up and looking; the parameter is its `LIST_SECONDS`."""
    target = urlsplit(agent_cluster.server)
    gate = Gate((target.hostname or "", target.port or 0))
    token_file, log, port = agent_cluster.token_file(agent_cluster.nodes[0]), tmp_path / "agent.log", free_port()
    with serving(Metadata()) as metadata, trainer_endpoint() as trainer, log.open("w") as stderr:
        environ = {
            "PATH": os.environ["PATH"],
            "SPOTTUNE_NODE": agent_cluster.nodes[0],
            "SPOTTUNE_API_URL": f"https://127.0.0.1:{gate.port}",
            "SPOTTUNE_CA_FILE": str(agent_cluster.ca_file),
            "SPOTTUNE_TOKEN_FILE": str(token_file),
            "SPOTTUNE_IMDS_URL": metadata.url,
            "SPOTTUNE_POLL_SECONDS": "0.1",
            "SPOTTUNE_LIST_SECONDS": getattr(request, "param", "0.3"),
            "SPOTTUNE_MARGIN_SECONDS": "5",
            "SPOTTUNE_TRAINER_PORT": str(trainer.port),
            "SPOTTUNE_HEALTH_PORT": str(port),
        }
        process = subprocess.Popen([sys.executable, "-m", "spottune_agent"], env=environ, stderr=stderr, text=True)
        world = World(agent_cluster, metadata, trainer, gate, token_file, process, log, port)
        try:
            await_until(lambda: world.events("AgentStarted"), "the agent has started")
            yield world
        finally:
            process.kill()
            process.wait()
            gate.close()


def test_a_notice_is_told_to_the_trainer_and_then_its_pod_is_deleted_with_the_time_that_is_left(world: World) -> None:
    first, second = world.cluster.nodes
    world.cluster.pod("mine", first)
    world.cluster.pod("elsewhere", second)
    world.cluster.pod("no-trainer", first, trainer=False)
    world.remembered(1)
    deadline = world.announce(60)
    pod = await_until(lambda: (p := world.cluster.find("mine")).metadata.deletion_timestamp and p, "the pod is deleted")
    assert 40 <= pod.metadata.deletion_grace_period_seconds <= 55
    [request] = world.trainer.requests
    assert (request.source, request.deadline) == ("imds-spot", deadline)
    [ended] = await_until(lambda: world.events("PodEnded"), "the agent says so")
    [told] = world.events("TrainerTold")
    assert told["timestamp"] <= ended["timestamp"]
    for name in ("elsewhere", "no-trainer"):
        assert world.cluster.find(name).metadata.deletion_timestamp is None
    recorded = await_until(
        lambda: world.cluster.core.list_namespaced_event(world.cluster.namespace, field_selector="reason=InterruptionNotice").items,
        "an event",
    )
    assert recorded[0].involved_object.name == "mine"


@pytest.fixture
def starting_pod(agent_cluster: AgentCluster) -> str:
    """A trainer pod on the first node that has no address yet."""
    agent_cluster.pod("starting", agent_cluster.nodes[0], address="")
    return "starting"


@pytest.mark.parametrize("world", ["60"], indirect=True)
def test_a_pod_that_got_its_address_after_it_was_last_listed_is_told_before_it_is_ended(starting_pod: str, world: World) -> None:
    await_until(lambda: list(world.health()["pods"].values()) == [""], "the agent knows a pod without an address")
    world.cluster.start(starting_pod)
    world.announce(60)
    await_until(lambda: world.cluster.find(starting_pod).metadata.deletion_timestamp, "the pod is deleted")
    [ended] = await_until(lambda: world.events("PodEnded"), "the agent says so")
    [told] = world.events("TrainerTold")
    assert told["timestamp"] <= ended["timestamp"]


def test_a_notice_that_is_read_again_and_again_is_told_once(world: World) -> None:
    world.cluster.pod("mine", world.cluster.nodes[0])
    world.remembered(1)
    world.announce(60)
    await_until(lambda: world.events("PodEnded"), "the pod is deleted")
    seen = len(world.metadata.requests)
    await_until(lambda: len(world.metadata.requests) > seen + 40, "the notice has been read ten times more")
    assert len(world.trainer.requests) == 1
    assert len(world.events("InterruptionAnnounced")) == 1


def test_a_rebalance_recommendation_asks_for_a_commit_and_the_pod_stays(world: World) -> None:
    world.cluster.pod("mine", world.cluster.nodes[0])
    world.remembered(1)
    world.metadata.documents[REBALANCE] = b'{"noticeTime":"2022-07-16T19:18:24Z"}'
    await_until(lambda: world.trainer.requests, "the trainer is told")
    assert [(request.source, request.deadline) for request in world.trainer.requests] == [("rebalance", None)]
    await_until(
        lambda: world.cluster.core.list_namespaced_event(world.cluster.namespace, field_selector="reason=RebalanceRecommended").items,
        "the event is recorded",
    )
    assert world.cluster.find("mine").metadata.deletion_timestamp is None


def test_while_the_api_server_is_away_the_trainer_is_told_and_the_deletion_follows_when_it_is_back(world: World) -> None:
    world.cluster.pod("mine", world.cluster.nodes[0])
    world.remembered(1)
    world.gate.shut()
    await_until(lambda: any(line["what"] == "api:list" for line in world.events("Failing")), "the agent misses the API server")
    deadline = world.announce(60)
    await_until(lambda: world.trainer.requests, "the trainer is told")
    assert world.trainer.requests[0].deadline == deadline
    assert world.cluster.find("mine").metadata.deletion_timestamp is None
    world.gate.open = True
    pod = await_until(lambda: (p := world.cluster.find("mine")).metadata.deletion_timestamp and p, "the pod is deleted")
    assert pod.metadata.deletion_grace_period_seconds <= deadline - time.time()


def test_a_trainer_that_does_not_listen_loses_its_pod_in_time_and_is_told_again(world: World) -> None:
    world.cluster.pod("mine", world.cluster.nodes[0])
    world.remembered(1)
    world.trainer.refusals = 2
    world.announce(60)
    await_until(lambda: world.events("PodEnded"), "the pod is deleted")
    await_until(lambda: world.trainer.requests, "the trainer is told")
    assert len(world.trainer.requests) == 1


def test_a_pod_that_arrives_after_the_notice_is_ended_too(world: World) -> None:
    world.announce(60)
    await_until(lambda: world.events("InterruptionAnnounced"), "the notice is read")
    world.cluster.pod("late", world.cluster.nodes[0])
    await_until(lambda: world.cluster.find("late").metadata.deletion_timestamp, "the late pod is deleted")


def test_a_metadata_service_that_fails_and_comes_back_is_read_again(world: World) -> None:
    world.cluster.pod("mine", world.cluster.nodes[0])
    world.remembered(1)
    world.metadata.broken["api/token"] = 503
    world.metadata.forget_tokens()
    await_until(lambda: world.health()["problems"], "the agent says what fails")
    world.announce(60)
    world.metadata.broken.clear()
    await_until(lambda: world.trainer.requests, "the trainer is told")


def test_a_rotated_token_is_taken_up_without_a_restart(world: World) -> None:
    good = world.token_file.read_text()
    world.token_file.write_text("expired")
    await_until(lambda: world.health()["problems"].get("api:list"), "the expired token is refused")
    world.token_file.write_text(good)
    await_until(lambda: not world.health()["problems"], "the new token works")


def test_the_agent_ends_at_once_when_asked(world: World) -> None:
    world.process.send_signal(signal.SIGTERM)
    assert world.process.wait(timeout=8) == 0
    assert world.events("AgentStopped")
