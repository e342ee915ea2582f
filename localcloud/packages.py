"""The Debian packages that the local cluster needs: which are missing, and installing just those.

The set-up calls this before anything is installed: standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LIST = Path(__file__).with_name("packages.txt")
_LOCK_SECONDS = 300
"""A fresh machine is often still busy with its own updates."""


class PackageError(RuntimeError):
    """Packages could not be installed; the message says which and why."""


@dataclass(frozen=True)
class Package:
    """One line of packages.txt."""

    name: str
    why: str


def parse(text: str) -> tuple[Package, ...]:
    """`NAME  why` per line; `#` begins a comment."""
    lines = [line.partition("#")[0].split(maxsplit=1) for line in text.splitlines()]
    return tuple(Package(words[0], words[1].strip() if len(words) > 1 else "") for words in lines if words)


def wanted() -> tuple[Package, ...]:
    """All packages the local cluster needs."""
    return parse(_LIST.read_text())


def missing() -> tuple[Package, ...]:
    """Those that are not installed; all of them where there is no dpkg."""
    if shutil.which("dpkg-query") is None:
        return wanted()
    answer = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"], capture_output=True, text=True, check=False)
    installed = {line.split()[0] for line in answer.stdout.splitlines() if line.endswith(" installed")}
    return tuple(package for package in wanted() if package.name not in installed)


def install(packages: Sequence[Package]) -> None:
    """Install them with apt-get, quietly; another apt-get at work is waited for, five minutes at most.

    Raises:
        PackageError: no apt-get, not root, or apt-get failed; then with the end of what it said.
    """
    names = [package.name for package in packages]
    if not names:
        return
    if shutil.which("apt-get") is None:
        raise PackageError(f"this machine has no apt-get: install what your distribution has for {', '.join(names)}")
    if os.geteuid() != 0:
        raise PackageError(f"only root can install packages; as root: apt-get install {' '.join(names)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    waiting = ("-o", f"DPkg::Lock::Timeout={_LOCK_SECONDS}")
    for words in (("update", "-qq"), ("install", "-y", "-qq", "--no-install-recommends", *names)):
        command = ["apt-get", *waiting, *words]
        apt = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
        )
        if apt.returncode:
            tail = "\n".join(apt.stdout.strip().splitlines()[-15:])
            raise PackageError(f"`{' '.join(command)}` ended with {apt.returncode}:\n{tail}")
