"""The HTTP server over a real socket."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

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
def server(board: Board) -> Iterator[ControlServer]:
    routes = Routes(
        progress=lambda: board.progress().model_dump_json(),
        metrics=exposition(board.progress),
        hung=board.hung,
        notify=Preemption().notify,
    )
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


def test_silent_connections_do_not_keep_others_out_for_good(server: ControlServer) -> None:
    silent: list[Any] = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(MAX_CONNECTIONS + 4)]
    # The surplus is closed unanswered.
    assert [connection.recv(1) for connection in silent[-4:]] == [b""] * 4
    for connection in silent:
        connection.close()
    for _ in range(100):
        try:
            assert call(server, "GET", "/healthz")[0] == 200
            break
        except (ConnectionError, http.client.RemoteDisconnected):
            continue
    else:
        pytest.fail("no slot became free")


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
