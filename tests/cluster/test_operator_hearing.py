"""How the operator hears: notices from SQS, and changes although its watch is frozen."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import yaml

from tests.fixtures.notice_queue import AWS, Queue
from tests.fixtures.operator_process import HollowNodes, HollowTrainer, Jobs, OperatorProcess, await_value

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


def test_f41_behind_a_frozen_watch_changes_are_seen_within_seconds(
    operator_kubeconfig: Path, jobs: Jobs, tmp_path: Path, hollow_trainer: HollowTrainer
) -> None:
    config = yaml.safe_load(operator_kubeconfig.read_text())
    host, port = config["clusters"][0]["cluster"]["server"].removeprefix("https://").split(":")
    with closing(FreezingProxy((host, int(port)))) as proxy:
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{proxy.port}"
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        operator = OperatorProcess(path, tmp_path / "operator.log").await_ready()
        try:
            jobs.create()
            jobs.train(hollow_trainer, 1)
            assert proxy.freeze() >= 4, "three watches and our own connection"
            jobs.vanish("job-e1-0")
            jobs.await_pod("job-e2-0", 20)
            assert operator.exit_code() is None
        finally:
            operator.kill()
