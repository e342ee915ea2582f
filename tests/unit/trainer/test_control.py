"""The HTTP server over a real socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from spottune_contract.env import RunEnv
from spottune_contract.exitcodes import ExitCode
from spottune_contract.progress import LogView, Progress, TrainerPhase
from spottune_contract.runspec import RunSpec
from spottune_trainer.board import Board
from spottune_trainer.control import MAX_BODY_BYTES, MAX_CONNECTIONS, ControlServer, Routes
from spottune_trainer.metrics import exposition
from spottune_trainer.preemption import BURST, Preemption

SPEC = {
    "model": {"source": "/model"},
    "dataset": {"source": "/data.jsonl"},
    "training": {"maxSteps": 5},
    "checkpoint": {"storage": "s3://bucket/prefix"},
}


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def board(time: Time) -> Board:
    env = RunEnv(cluster="c", namespace="n", job="j", job_uid="u", epoch=3, run_spec=RunSpec.model_validate(SPEC))
    return Board(env, "writer01", clock=time, monotonic=time)


@pytest.fixture
def routes(board: Board) -> Routes:
    return Routes(
        progress=lambda: board.progress().model_dump_json(),
        metrics=exposition(board.progress),
        hung=board.hung,
        notify=Preemption().notify,
    )


@pytest.fixture
def server(routes: Routes) -> Iterator[ControlServer]:
    server = ControlServer(0, routes)
    server.start()
    yield server
    server.shutdown()
    server.server_close()


def call(server: ControlServer, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def test_progress_is_the_contracts(server: ControlServer, board: Board) -> None:
    board.update(step=4, total_steps=5, loss=1.5, phase=TrainerPhase.TRAINING)
    board.follow(lambda: LogView(head_slot=7, max_epoch=3))
    status, body, _ = call(server, "GET", "/progress")
    progress = Progress.model_validate_json(body)
    assert (status, progress.step, progress.loss, progress.epoch, progress.writer) == (200, 4, 1.5, 3, "writer01")
    assert progress.log == LogView(head_slot=7, max_epoch=3)


def test_metrics_are_prometheus_text_and_leave_out_what_is_not_known(server: ControlServer, board: Board) -> None:
    board.update(step=4)
    _, body, headers = call(server, "GET", "/metrics")
    text = body.decode()
    assert headers["Content-Type"].startswith("text/plain")
    assert "spottune_trainer_step 4.0" in text
    assert 'spottune_trainer_phase{phase="starting"} 1.0' in text
    assert "spottune_trainer_loss" not in text


def test_health_fails_when_no_step_ends_for_long_and_only_in_training(server: ControlServer, board: Board, time: Time) -> None:
    board.phase(TrainerPhase.LOADING)
    time.now += 10_000
    assert call(server, "GET", "/healthz")[0] == 200
    board.phase(TrainerPhase.TRAINING)
    time.now += 299
    assert call(server, "GET", "/healthz")[0] == 200
    time.now += 2
    status, body, _ = call(server, "GET", "/healthz")
    assert (status, body) == (503, b"no step finished for 301 s (limit 300 s)")


def test_slow_steps_get_twenty_times_their_median(board: Board, time: Time) -> None:
    board.phase(TrainerPhase.TRAINING)
    for seconds in (30.0, 40.0, 50.0):
        board.step_took(seconds, 100)
    time.now += 799
    assert board.hung() == ""
    time.now += 2
    assert board.hung() == "no step finished for 801 s (limit 800 s)"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "JSON"),
        (b'{"source": "UPPER"}', 400, "source"),
        (b'{"sauce": "imds"}', 400, "sauce"),
        (b'{"deadline": "soon"}', 400, "deadline"),
        (b"x" * (MAX_BODY_BYTES + 1), 413, "4096"),
    ],
)
def test_a_bad_request_is_refused_with_the_field(server: ControlServer, body: bytes, status: int, says: str) -> None:
    answered, text, _ = call(server, "POST", "/checkpoint", body)
    assert answered == status
    assert says in json.loads(text)["error"]


def test_a_body_without_a_length_is_refused(server: ControlServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(b"POST /checkpoint HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(64).startswith(b"HTTP/1.0 411")


def test_an_empty_body_is_a_plain_request_and_a_flood_is_told_when_to_come_back(server: ControlServer) -> None:
    answers = [call(server, "POST", "/checkpoint", b"") for _ in range(BURST + 1)]
    assert [status for status, _, _ in answers] == [202] * BURST + [429]
    assert answers[-1][2]["Retry-After"] == "15"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("GET", "/checkpoint", 404), ("POST", "/progress", 404), ("PUT", "/progress", 501)]
)
def test_other_paths_and_methods_are_refused(server: ControlServer, method: str, path: str, status: int) -> None:
    assert call(server, method, path, b"" if method != "GET" else None)[0] == status


def connect(server: ControlServer, source: str = "127.0.0.2") -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10, source_address=(source, 0))


def ended(connection: socket.socket) -> bool:
    """Whether the server has closed it, waiting for that as long as the socket's own time-out allows."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def drip(connection: socket.socket, drops: int) -> int:
    """Send a byte every 50 ms, `drops` at most, until the server ends the connection. Returns how many were sent."""
    connection.settimeout(0.05)
    for sent in range(drops):
        try:
            connection.sendall(b"x")
            if connection.recv(1) == b"":
                return sent
        except TimeoutError:
            continue
        except ConnectionError:
            return sent
    return drops


def test_health_is_answered_whatever_number_of_silent_connections_another_caller_holds(server: ControlServer) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(server)) for _ in range(3 * MAX_CONNECTIONS)]
        for _ in range(10):
            assert call(server, "GET", "/healthz")[0] == 200
        # The longest open ones made room, at once.
        assert all(ended(connection) for connection in silent[: 2 * MAX_CONNECTIONS])


def test_a_caller_with_many_connections_loses_its_own_and_nobody_elses(server: ControlServer) -> None:
    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(connect(server, "127.0.0.3"))
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        crowd = [stack.enter_context(connect(server)) for _ in range(2 * MAX_CONNECTIONS)]
        assert ended(crowd[0])
        slow.sendall(b"\r\n")
        assert slow.recv(64).startswith(b"HTTP/1.0 200")


def test_a_connection_that_drips_is_ended_after_a_bounded_time(routes: Routes) -> None:
    server = ControlServer(0, routes, connection_seconds=0.3)
    server.start()
    try:
        with connect(server) as dripping:
            dripping.sendall(b"GET /healthz?")
            assert drip(dripping, drops=100) < 100, "more than ten times its time"
        assert call(server, "GET", "/healthz")[0] == 200
    finally:
        server.shutdown()
        server.server_close()


def test_the_last_word_says_what_progress_said(board: Board) -> None:
    board.update(step=4, total_steps=5, loss=1.5, resumed_from_step=2)
    word = board.termination(ExitCode.YIELDED, "Yielded", "why", "s3://out")
    assert (word.epoch, word.writer, word.step, word.resumed_from_step, word.exit_code, word.output) == (
        3,
        "writer01",
        4,
        2,
        10,
        "s3://out",
    )


def test_warnings_are_shown_once_and_can_be_taken_back(board: Board) -> None:
    for text in ("A: one", "A: one", "B: two"):
        board.warn(text)
    assert board.progress().warnings == ["A: one", "B: two"]
    board.unwarn("A")
    assert board.progress().warnings == ["B: two"]
