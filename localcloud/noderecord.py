"""What is known of a node: its record on disk, and what can be seen of it from outside."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from localcloud import containerd, net
from localcloud.cgroups import NodeCgroup
from localcloud.home import Home, write_private
from localcloud.process import Process

State = Literal["Running", "Paused", "Cut", "Off"]


class NodeError(RuntimeError):
    """A node is not there, did not come up or cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Node:
    """One node, dead or alive. Its files lie in `directory` until it is deleted."""

    home: Home
    name: str
    pool: str
    index: int
    instance_id: str
    provider_id: str
    static: bool
    """We made up its instance, so its Node object goes with `delete`; else Karpenter cares for it."""

    @property
    def directory(self) -> Path:
        return self.home.root / "nodes" / self.name

    @property
    def address(self) -> str:
        """On the bridge."""
        return net.node_address(self.index)

    @property
    def pod_cidr(self) -> str:
        return net.pod_network(self.index)

    @property
    def cgroup(self) -> NodeCgroup:
        return NodeCgroup(f"{cgroup_of(self.home).path}/{self.name}")

    @property
    def init(self) -> Process | None:
        """Its PID 1, as this machine sees it; None if it is off."""
        try:
            record = json.loads((self.directory / "init.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        process = Process(record["pid"], record["started"])
        return process if process.alive() else None

    @property
    def state(self) -> State:
        if self.init is None:
            return "Off"
        if self.cgroup.frozen:
            return "Paused"
        return "Cut" if net.is_cut(self.index) else "Running"

    @property
    def containerd_socket(self) -> Path:
        """containerd's socket, reachable from outside the node (for `ctr -a`)."""
        init = self.init
        if init is None:
            raise NodeError(f"node {self.name} is off")
        return Path(f"/proc/{init.pid}/root{containerd.SOCKET}")

    @property
    def logs(self) -> Path:
        """Logs of init, containerd, kubelet and kube-proxy; kept by `delete`."""
        return self.home.logs / "nodes" / self.name


def write(node: Node, more: Mapping[str, Any]) -> None:
    own = {key: getattr(node, key) for key in ("name", "pool", "index", "instance_id", "provider_id", "static")}
    write_private(node.directory / "node.json", json.dumps({**own, **more}, indent=1))


def read(home: Home, name: str) -> Node | None:
    try:
        record = json.loads((home.root / "nodes" / name / "node.json").read_text())
    except FileNotFoundError:
        return None
    return Node(home, name, record["pool"], record["index"], record["instance_id"], record["provider_id"], record["static"])


def known(home: Home, name: str) -> Node:
    node = read(home, name)
    if node is None:
        known = ", ".join(node.name for node in list_nodes(home)) or "none"
        raise NodeError(f"no node {name!r} here; there are: {known}. Add one with `.venv/bin/python -m localcloud node add`")
    return node


def list_nodes(home: Home) -> list[Node]:
    """All nodes that were added and not deleted, also those that are off, by name."""
    names = sorted(path.parent.name for path in (home.root / "nodes").glob("*/node.json"))
    return [node for name in names if (node := read(home, name)) is not None]


def cgroup_of(home: Home) -> NodeCgroup:
    return NodeCgroup(f"spottune/{net.key(home)}")


@contextmanager
def lock(home: Home, name: str) -> Iterator[None]:
    """One at a time, among all threads and processes, for what `name` stands for: a node, or what nodes share."""
    with (home.run / f"node-{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
