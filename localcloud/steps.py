"""What `up`, `down` and `status` are made of: an ordered tuple of named steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from localcloud.home import Home


@dataclass(frozen=True)
class Row:
    """One line of `status`."""

    part: str
    state: str
    detail: str = ""


@dataclass(frozen=True)
class Step:
    """One part of the local cluster.

    Attributes:
        name: what the user reads while it comes up ("control plane").
        up: brings it up; does nothing if it is up. Returns one line about it (an address, a count).
        down: takes it down; does nothing if it is down; works after a crash that left it half-way, too.
        status: rows for the status table; must be quick and must not change anything.
    """

    name: str
    up: Callable[[Home], str]
    down: Callable[[Home], None]
    status: Callable[[Home], list[Row]]
