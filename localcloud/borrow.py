"""The local cluster of this machine for a while: brought up if it is not, left as it was found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from localcloud.home import Home
from localcloud.moto_server import SOURCE_ROOT
from localcloud.process import ServiceError


def up(output: IO[str] | None = None) -> Home:
    """The local cluster, up; what is up already stays. It tells `output` (None: this process's) how far it is. Raises `ServiceError`."""
    _verb("up", output)
    return Home.default()


@contextmanager
def borrowed(output: IO[str] | None = None) -> Iterator[Home]:
    """As `up`, and down again at the end unless it was up before."""
    was_up = Home.default().kubeconfig.exists()
    home = up(output)
    try:
        yield home
    finally:
        if not was_up:
            _verb("down", output)


def _verb(verb: str, output: IO[str] | None) -> None:
    done = subprocess.run([sys.executable, "-m", "localcloud", verb], cwd=SOURCE_ROOT, stdout=output)
    if done.returncode:
        raise ServiceError(f"the local cluster did not come {verb}; the lines above say why")
