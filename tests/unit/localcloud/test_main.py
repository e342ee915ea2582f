"""The command line answers in words, and a look never changes anything."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from localcloud import preflight
from localcloud.__main__ import STEPS, main
from localcloud.home import Home


def test_looking_at_and_taking_down_what_is_not_there_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    assert main(["--home", str(home), "status"]) == 3
    assert main(["--home", str(home), "down"]) == 0
    assert not home.exists()
    assert "python -m localcloud up" in capsys.readouterr().out


def test_without_a_cluster_env_says_that_it_is_not_up_and_prints_nothing_to_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert main(["--home", str(home), "env"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert f"the cluster of {home} is not up" in said.err
    assert "make up" in said.err
    assert not home.exists()


def test_the_status_of_a_home_that_is_down_writes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    assert main(["--home", str(tmp_path), "status"]) == 3
    assert "kube-apiserver" in capsys.readouterr().out
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_up_says_everything_that_is_missing_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = preflight.look(Home(tmp_path / "home"))
    monkeypatch.setattr(preflight, "look", lambda home: replace(found, uid=0, capabilities=0, free_gigabytes=1.0))
    assert main(["--home", str(tmp_path / "home"), "up"]) == 1
    said = capsys.readouterr().err
    assert "CAP_SYS_ADMIN" in said
    assert "1.0 GB free" in said
    assert not (tmp_path / "home").exists()


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(_: Home) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "etcd"))

    monkeypatch.setattr(preflight, "require", full)
    assert main(["--home", str(tmp_path), "up"]) == 1
    assert f"no space left on the disk of {tmp_path / 'etcd'}" in capsys.readouterr().err


def test_a_home_of_somebody_else_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_: Home) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "run"))

    monkeypatch.setattr(preflight, "require", refused)
    assert main(["--home", str(tmp_path), "up"]) == 1
    assert (
        capsys.readouterr().err == f"error: no rights on {tmp_path / 'run'}: run it as root (sudo), or name a home of your own by --home\n"
    )


@pytest.mark.parametrize("identity", [[], ["--user", "alice"]], ids=["the administrator's", "another identity's"])
def test_a_kubeconfig_of_a_cluster_that_was_never_up_is_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], identity: list[str]
) -> None:
    assert main(["--home", str(tmp_path / "home"), "kubeconfig", *identity]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "localcloud up" in said.err
    assert not (tmp_path / "home").exists()


def test_the_network_is_first_up_and_last_down() -> None:
    assert STEPS[0].name == "network"
    assert STEPS[1].name == "control plane"
    assert len({step.name for step in STEPS}) == len(STEPS)


def test_packages_are_listed_with_their_reason(capsys: pytest.CaptureFixture[str]) -> None:
    main(["packages"])
    assert "containerd" in capsys.readouterr().out
