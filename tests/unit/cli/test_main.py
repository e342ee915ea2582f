"""The command line answers in sentences and with exit codes that mean something."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from spottune_cli.main import app


def spottune(*arguments: str, **environ: str | None) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"KUBECONFIG": None, **environ})


def kubeconfig(folder: Path, server: str) -> str:
    path = folder / "kubeconfig"
    named = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "x", **named}))
    return str(path)


@pytest.mark.parametrize("command", [["watch", "job"], ["log", "job"], ["verify", "job"], ["restore", "job", "-o", "out"], ["doctor"]])
def test_without_a_kubeconfig_every_command_says_so_and_what_to_do(command: list[str], tmp_path: Path) -> None:
    result = spottune(*command, HOME=str(tmp_path))
    assert result.exit_code == 2, result.output
    assert "no usable kubeconfig" in result.stderr
    assert "--kubeconfig" in result.stderr
    assert result.stdout == ""


def test_a_kubeconfig_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text("{ not: [yaml")
    result = spottune("log", "job", "--kubeconfig", str(path))
    assert (result.exit_code, str(path) in result.stderr) == (2, True), result.output


@pytest.mark.parametrize("command", ["watch", "log"])
def test_a_cluster_that_is_not_there_is_said_at_once(command: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = spottune(command, "job", "--kubeconfig", kubeconfig(tmp_path, server))
    assert result.exit_code == 3, result.output
    assert f"the cluster at {server} does not answer" in result.stderr


@contextmanager
def api_server(*answers: tuple[int, object]) -> Iterator[str]:
    """An API server that gives these answers, one after the other, the last one again and again."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (404, 2, "no FineTuneJob 'job' in namespace 'demo'; `kubectl get ftj -A` lists all"),
        (401, 3, "the kubeconfig's credentials are not valid"),
        (403, 3, "your user may not get finetunejobs.spottune.dev in namespace 'demo'"),
        (500, 3, "try again"),
    ],
)
@pytest.mark.parametrize("command", ["watch", "log"])
def test_what_the_api_server_refuses_is_a_sentence(command: str, status: int, code: int, sentence: str, tmp_path: Path) -> None:
    with api_server((status, {"kind": "Status", "code": status})) as server:
        result = spottune(command, "job", "-n", "demo", "--kubeconfig", kubeconfig(tmp_path, server))
    assert (result.exit_code, sentence in result.stderr) == (code, True), result.output


def test_a_watched_job_that_fails_ends_with_1_and_why(tmp_path: Path) -> None:
    running = {"metadata": {"name": "job"}, "status": {"phase": "Running", "step": 3}}
    condition = {"type": "Complete", "status": "False", "reason": "StorageDenied", "message": "no bucket: create it"}
    failed = {"metadata": {"name": "job"}, "status": {"phase": "Failed", "conditions": [condition]}}
    with api_server((200, running), (500, {}), (200, failed)) as server:
        result = spottune("watch", "job", "--kubeconfig", kubeconfig(tmp_path, server))
    assert result.exit_code == 1, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["Running", "Failed"]
    assert result.stderr == "spottune: Failed: Complete=False StorageDenied: no bucket: create it\n"


def test_a_job_before_its_first_attempt_is_said_to_have_no_log_yet(tmp_path: Path) -> None:
    job = {"metadata": {"name": "job", "namespace": "demo", "uid": "u"}, "spec": {"checkpoint": {"storage": "s3://b/p"}}}
    with api_server((200, job)) as server:
        result = spottune("verify", "job", "--kubeconfig", kubeconfig(tmp_path, server))
    assert (result.exit_code, "wait for its first attempt" in result.stderr) == (2, True), result.output


def test_the_job_is_asked_for_where_its_log_is(tmp_path: Path) -> None:
    """Endpoint and location come from the job: nothing listens there, and the answer names them."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        job = {
            "metadata": {"name": "job", "namespace": "demo", "uid": "u"},
            "spec": {"checkpoint": {"storage": "s3://bucket/p", "endpoint": endpoint}},
            "status": {"log": {"location": "s3://bucket/p/eu-1/demo/u"}},
        }
        with api_server((200, job)) as server:
            keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
            result = spottune("log", "job", "--kubeconfig", kubeconfig(tmp_path, server), **keys)
    assert result.exit_code == 3, result.output
    assert f"s3://bucket/p/eu-1/demo/u at {endpoint} does not answer" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["log"], ["log", "x", "--limit", "0"], ["restore", "x"], ["verify", "x", "--keep-last", "1"], ["nonsense"]]
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    assert spottune(*arguments).exit_code == 2


def test_restore_looks_at_the_folder_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    result = spottune("restore", "job", "-o", str(tmp_path))
    assert (result.exit_code, "is not empty" in result.stderr) == (2, True)
