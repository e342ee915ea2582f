"""The Debian packages that the local cluster needs: which are missing, and installing just those."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LIST = Path(__file__).with_name("packages.txt")


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
    """Install them with apt-get, its own progress on the screen.

    Raises:
        PackageError: no apt-get, not root, or apt-get failed.
    """
    names = [package.name for package in packages]
    if not names:
        return
    if shutil.which("apt-get") is None:
        raise PackageError(f"this machine has no apt-get: install what your distribution has for {', '.join(names)}")
    if os.geteuid() != 0:
        raise PackageError(f"only root can install packages; as root: apt-get install {' '.join(names)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *names]):
        code = subprocess.run([*command, "-q"], env=environment, check=False).returncode
        if code:
            raise PackageError(f"`{' '.join(command)}` ended with exit code {code}: see its messages above")
