"""Nodes of the local cluster (`python -m localcloud`): only there a whole machine can be frozen or cut off without further rights."""

from __future__ import annotations

import subprocess
import sys

from spottune_cli.errors import Exit, Refusal

_COMMAND = (sys.executable, "-m", "localcloud", "node")


def is_local(node: str) -> bool:
    """Whether `node` runs on this machine. Only in a checkout of SpotTune there is a localcloud to ask."""
    try:
        told = subprocess.run([*_COMMAND, "list"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.returncode == 0 and any(line.split()[:2] == [node, "Running"] for line in told.stdout.splitlines())


def do(verb: str, node: str) -> None:
    """`pause`, `resume`, `cut` or `heal` a node. Raises `Refusal` with what localcloud says."""
    told = subprocess.run([*_COMMAND, verb, node], capture_output=True, text=True)
    if told.returncode:
        raise Refusal(Exit.UNREACHABLE, f"python -m localcloud node {verb} {node}: {told.stderr.strip()}")
