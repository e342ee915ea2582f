"""Debian packages: one list and one way to install them, for the set-up and for `localcloud packages`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from localcloud.packages import Package, PackageError, install

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = (Package("runc", "starts the containers"), Package("nftables", "services"))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose whole PATH is one folder."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def apt_get(folder: Path, script: str) -> None:
    program = folder / "apt-get"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_the_set_up_begins_with_nothing_but_the_standard_library() -> None:
    """Before .venv there is nothing else: -S leaves out whatever is installed."""
    command = [sys.executable, "-I", "-S", "tools/bootstrap.py", "--help"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.startswith("usage:")
    load = "import runpy; runpy.run_path('tools/bootstrap.py')['packages'].wanted()"
    subprocess.run([sys.executable, "-I", "-S", "-c", load], cwd=ROOT, check=True)


def test_packages_are_installed_with_a_fresh_list_and_no_extras(machine: Path) -> None:
    apt_get(machine, f'echo "$@" >> {machine}/calls')
    install(PACKAGES)
    update, installed = (machine / "calls").read_text().splitlines()
    assert update.endswith("update -qq")
    assert installed.endswith("--no-install-recommends runc nftables")


def test_what_apt_get_says_is_told_when_it_fails(machine: Path) -> None:
    apt_get(machine, 'echo "E: No space left on device"; exit 100')
    with pytest.raises(PackageError, match=r"ended with 100(.|\n)*No space left on device"):
        install(PACKAGES)


def test_without_apt_get_the_packages_are_named(machine: Path) -> None:
    with pytest.raises(PackageError, match="no apt-get: install what your distribution has for runc, nftables"):
        install(PACKAGES)


def test_without_root_the_command_is_given(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt_get(machine, "exit 1")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PackageError, match="apt-get install runc nftables"):
        install(PACKAGES)
