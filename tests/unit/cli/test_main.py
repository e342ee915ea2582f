"""The command line answers in sentences and with exit codes that mean something."""

from __future__ import annotations

import socket
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


@pytest.mark.parametrize("command", [["watch", "job"], ["log", "job"], ["verify", "job"], ["restore", "job", "-o", "out"]])
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
