"""How the operator hears: notices from SQS, and changes although its watch is frozen."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import yaml

from localcloud.controlplane import ControlPlane
from tests.fixtures.gateway import Gateway
from tests.fixtures.hollow_nodes import HollowNodes
from tests.fixtures.notice_queue import AWS, Queue
from tests.fixtures.operator_process import HollowTrainer, Jobs, OperatorProcess, await_value

pytestmark = pytest.mark.cluster

Start = Callable[..., OperatorProcess]


@pytest.fixture
def machine(hollow_nodes: HollowNodes) -> Iterator[tuple[str, str]]:
    """A machine of a pool of its own: node name and instance id."""
    name, instance = hollow_nodes.add("p4d.24xlarge", "us-east-1c")
    yield name, instance
    hollow_nodes.remove(name)


HERE = {"instanceTypes": ["p4d.24xlarge"], "zones": ["us-east-1c"]}


def test_a_spot_warning_in_the_queue_reaches_the_trainer_and_ends_its_pod_in_time(
    start_operator: Start, jobs: Jobs, machine: tuple[str, str], queue: Queue, hollow_trainer: HollowTrainer
) -> None:
    operator = start_operator(*queue.flags, environ=AWS).await_ready()
    jobs.create(capacity=HERE)
    jobs.create("elsewhere", capacity={"instanceTypes": ["g5.xlarge"]})
    jobs.train(hollow_trainer, 1)
    jobs.run("elsewhere-e1-0")
    for _ in range(3):
        queue.warn(machine[1])
    pod = await_value(lambda: jobs.pod("job-e1-0").metadata.deletion_timestamp and jobs.pod("job-e1-0"), "the pod is deleted", 10)
    assert 90 <= pod.metadata.deletion_grace_period_seconds < 120
    assert [request["deadline"] is not None for request in hollow_trainer.asked] == [True], "told once, with the deadline"
    await_value(queue.empty, "all messages are handled")
    assert jobs.pod("elsewhere-e1-0").metadata.deletion_timestamp is None
    assert operator.metric('spottune_notices_total{kind="SpotInterruption",source="sqs"}') == 3
    assert jobs.phase() == "Draining"


def test_on_a_rebalance_recommendation_the_trainer_commits_and_stays(
    start_operator: Start, jobs: Jobs, machine: tuple[str, str], queue: Queue, hollow_trainer: HollowTrainer
) -> None:
    start_operator(*queue.flags, environ=AWS).await_ready()
    jobs.create(capacity=HERE)
    jobs.train(hollow_trainer, 1)
    queue.send("EC2 Instance Rebalance Recommendation", machine[1])
    await_value(lambda: hollow_trainer.asked, "the trainer is asked for a commit")
    await_value(queue.empty, "the message is handled")
    assert hollow_trainer.asked[0]["deadline"] is None
    assert jobs.pod("job-e1-0").metadata.deletion_timestamp is None
    assert len(hollow_trainer.asked) == 1


def test_who_taints_a_node_to_drain_it_is_heard_and_a_taint_of_the_termination_handler_ends_the_pod(
    start_operator: Start, jobs: Jobs, machine: tuple[str, str], hollow_nodes: HollowNodes, hollow_trainer: HollowTrainer
) -> None:
    start_operator().await_ready()
    jobs.create(capacity=HERE)
    jobs.train(hollow_trainer, 1)
    hollow_nodes.taint(machine[0], "karpenter.sh/disrupted")
    await_value(lambda: hollow_trainer.asked, "the trainer is asked for a commit")
    assert [request["source"] for request in hollow_trainer.asked] == ["rebalance"]
    assert jobs.pod("job-e1-0").metadata.deletion_timestamp is None
    hollow_nodes.taint(machine[0], "karpenter.sh/disrupted", "aws-node-termination-handler/spot-itn")
    pod = await_value(lambda: jobs.pod("job-e1-0").metadata.deletion_timestamp and jobs.pod("job-e1-0"), "the pod is deleted", 10)
    assert pod.metadata.deletion_grace_period_seconds == 100
    assert [request["source"] for request in hollow_trainer.asked] == ["rebalance", "nth"]
    assert jobs.status()["attempts"][0]["reason"] == "InterruptionNotice"


def test_a_machine_that_ec2_says_is_off_is_believed_once_its_trainer_is_silent_too(
    start_operator: Start, jobs: Jobs, machine: tuple[str, str], queue: Queue, hollow_trainer: HollowTrainer
) -> None:
    operator = start_operator("--sqs-queue-url", queue.url, "--sqs-endpoint", queue.endpoint, environ=AWS).await_ready()
    jobs.create(capacity=HERE)
    jobs.train(hollow_trainer, 1)
    queue.send("EC2 Instance State-change Notification", machine[1], state="terminated")
    await_value(queue.empty, "the message is handled")
    answered = operator.metric('spottune_progress_polls_total{outcome="answered"}')
    await_value(
        lambda: operator.metric('spottune_progress_polls_total{outcome="answered"}') > answered + 2, "the trainer answers after that"
    )
    assert (jobs.status()["attempt"], jobs.pod("job-e1-0").metadata.deletion_timestamp) == (1, None), "a forged event ends nothing"
    hollow_trainer.close()
    jobs.await_pod("job-e2-0", 10)
    first = jobs.status()["attempts"][0]
    assert (first["verdict"], first["reason"]) == ("Interrupted", "NodeUnreachable")
    assert first["message"] == f"Machine {machine[1]} is off (told by sqs), and its trainer does not answer."


def test_a_machine_that_went_off_without_a_word_is_found_long_before_kubernetes_says_so(
    start_operator: Start, jobs: Jobs, machine: tuple[str, str], hollow_nodes: HollowNodes, hollow_trainer: HollowTrainer
) -> None:
    start_operator().await_ready()
    jobs.create(capacity=HERE)
    jobs.train(hollow_trainer, 1)
    hollow_nodes.go_off(machine[0])
    hollow_trainer.close()
    jobs.await_pod("job-e2-0", 60)
    first = jobs.status()["attempts"][0]
    assert first["reason"] == "NodeUnreachable"
    assert f"Node {machine[0]} is off" in first["message"]
    assert jobs.status().get("failures", 0) == 0


class FreezingProxy:
    """Forwards TCP. `freeze` makes the connections of that moment silent and keeps them open; later ones work."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._frozen: set[int] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> int:
        """Returns the number of connections that fell silent."""
        self._frozen |= {id(end) for pair in self._pairs for end in pair}
        return len(self._pairs)

    def close(self) -> None:
        self._listener.close()
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(self._target)
                self._pairs.append((near, far))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if id(source) not in self._frozen:
                    sink.sendall(data)
            if id(source) not in self._frozen:
                sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def elsewhere(operator_kubeconfig: Path, tmp_path: Path) -> Iterator[Callable[[str], OperatorProcess]]:
    """Starts an operator that finds the API server at another address."""
    started: list[OperatorProcess] = []

    def start(server: str) -> OperatorProcess:
        config = yaml.safe_load(operator_kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = server
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        started.append(OperatorProcess(path, tmp_path / "operator.log").await_ready())
        return started[-1]

    yield start
    for operator in started:
        operator.kill()


def test_f41_behind_a_frozen_watch_changes_are_seen_within_seconds(
    control_plane: ControlPlane, elsewhere: Callable[[str], OperatorProcess], jobs: Jobs, hollow_trainer: HollowTrainer
) -> None:
    host, port = control_plane.server.removeprefix("https://").split(":")
    with closing(FreezingProxy((host, int(port)))) as proxy:
        operator = elsewhere(f"https://127.0.0.1:{proxy.port}")
        jobs.create()
        jobs.train(hollow_trainer, 1)
        assert proxy.freeze() >= 4, "three watches and our own connection"
        jobs.vanish("job-e1-0")
        jobs.await_pod("job-e2-0", 20)
        assert operator.exit_code() is None


def test_f45_after_thirty_seconds_of_429_the_operator_acts_within_seconds(
    control_plane: ControlPlane, elsewhere: Callable[[str], OperatorProcess], jobs: Jobs, hollow_trainer: HollowTrainer
) -> None:
    with closing(Gateway(control_plane.server, str(control_plane.authority.ca.certificate))) as gateway:
        operator = elsewhere(gateway.url)
        jobs.create()
        jobs.train(hollow_trainer, 1)
        gateway.refuse()
        jobs.vanish("job-e1-0")
        await_value(lambda: operator.metric("spottune_resync_age_seconds") > 30, "its metric tells how long it has been blind", 60)
        assert operator.metric('spottune_api_errors_total{error="Throttled"}') > 0
        assert operator.get("/healthz")[0] == 200, "a restart would not help"
        assert jobs.pods() == []
        gateway.refusing = False
        jobs.await_pod("job-e2-0", 15)
        assert operator.metric("spottune_resync_age_seconds") < 15
        assert (jobs.status()["attempt"], jobs.status().get("failures", 0)) == (2, 0)
        assert operator.exit_code() is None
