"""Spot nodes on this machine: added, paused, cut off, powered off, each a real kubelet with containers of its own.

A node is a process tree in its own network, mount, PID and host name namespaces, under one control group per hierarchy; `localcloud.machine` is its
PID 1. All calls may be repeated; calls for one node from several processes wait for each other.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from localcloud import containerd, images, kubelet, net
from localcloud.boot import boot, configure, prepare, service, switch_off
from localcloud.home import Home
from localcloud.nodeapi import control_plane, is_ready, request
from localcloud.noderecord import Node, NodeError, cgroup_of, known, list_nodes, lock, read
from localcloud.pools import Pool
from localcloud.process import tail
from localcloud.steps import Row, Step

__all__ = [
    "DEFAULT_POOL",
    "SYSTEM_LABEL",
    "SYSTEM_POOL",
    "Node",
    "NodeError",
    "add",
    "cut",
    "delete",
    "down_all",
    "get",
    "heal",
    "import_image",
    "list_nodes",
    "pause",
    "poweroff",
    "resume",
    "wait_ready",
]

DEFAULT_POOL = "g5.xlarge/us-east-1a/spot"
SYSTEM_POOL = "m5.xlarge/us-east-1a/on-demand"
SYSTEM_LABEL = "spottune.local/system"
"""On nodes that run the product's own pods and are never interrupted."""
_SYSTEM_NODE = "system"


def add(
    home: Home,
    pool: str = DEFAULT_POOL,
    *,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[str] = (),
    provider_id: str | None = None,
    instance_id: str | None = None,
    system: bool = False,
    real_images: bool = False,
    wait: bool = False,
) -> Node:
    """Boot a node that joins the cluster by itself; a running one of that name is returned as it is, one that is off boots anew.

    Args:
        home: the cluster; its API server must listen on the bridge.
        pool: instance type, zone and capacity type, e.g. `g5.xlarge/us-east-1a/spot`.
        name: of the Node object; made from the pool if None.
        labels, taints: registered on top of type, zone and capacity type; taints as `KEY[=VALUE]:EFFECT`.
        provider_id, instance_id: of an instance that somebody (Karpenter) launched; made up if None.
        system: label it for the product's own pods.
        real_images: mount nothing of the host into containers, so that images of the Dockerfiles run as they are.
        wait: until the node is Ready; else until its init runs (a second or two earlier).

    Raises:
        NodeError: it did not come up, or the control plane is not reachable from nodes.
        ValueError: pool or taint is misspelt.
    """
    parsed = Pool.parse(pool)
    for taint in taints:
        kubelet.parse_taint(taint)
    name = name or f"{parsed.instance_type.replace('.', '-')}-{parsed.zone}-{secrets.token_hex(2)}"
    plane = control_plane(home)
    containerd.check()
    if home.root.is_relative_to("/run"):
        raise NodeError(f"{home.root} lies below /run, which every node has for itself: choose another home")
    with lock(home, name):
        existing = read(home, name)
        # One without a cable was left by somebody who died while adding it: its init is about to give up.
        if existing is not None and existing.state != "Off" and net.is_plugged_in(existing.index):
            node = existing
        else:
            if existing is not None:
                switch_off(existing)
            static = instance_id is None and provider_id is None
            if static:
                # A Node object of an earlier machine of this name keeps that one's provider id, and looks Ready for a while.
                request(plane, "DELETE", f"/api/v1/nodes/{name}")
            instance = instance_id or f"i-{secrets.token_hex(9)[:17]}"
            node = prepare(home, name, parsed, instance, provider_id, static=static)
            configure(node, parsed, plane, {**({SYSTEM_LABEL: "true"} if system else {}), **(labels or {})}, taints, real_images)
            boot(node)
    if wait:
        wait_ready(home, name)
    return node


def poweroff(home: Home, name: str) -> None:
    """Pull the plug: the network goes silent, then every process of the node dies at once, containers too. The Node object stays.

    Raises:
        NodeError: no such node, or a process hangs in the kernel.
    """
    with lock(home, name):
        switch_off(known(home, name))


def pause(home: Home, name: str) -> None:
    """Freeze everything on the node at one instant; its open connections stay open. A node that is off stays off."""
    with lock(home, name):
        node = known(home, name)
        if node.init is not None:
            node.cgroup.freeze()


def resume(home: Home, name: str) -> None:
    """Let a paused node run on as if no time had passed."""
    with lock(home, name):
        known(home, name).cgroup.thaw()


def cut(home: Home, name: str) -> None:
    """Cut the node off the network; it runs on by itself."""
    with lock(home, name):
        node = known(home, name)
        if node.init is not None:
            net.cut(node.index)


def heal(home: Home, name: str) -> None:
    """Connect a cut node again."""
    with lock(home, name):
        node = known(home, name)
        if node.init is not None:
            net.heal(node.index)


def delete(home: Home, name: str) -> None:
    """Power off and forget the node; of a static one the Node object goes too. A name that is not there is done already."""
    with lock(home, name):
        node = read(home, name)
        if node is None:
            return
        switch_off(node)
        if node.static:
            request(control_plane(home), "DELETE", f"/api/v1/nodes/{name}")
        shutil.rmtree(node.directory)


def import_image(home: Home, name: str, archive: Path) -> None:
    """Import an image archive (OCI or `docker save`) into a running node: `imagePullPolicy: IfNotPresent` or `Never` finds it there.

    Raises:
        NodeError: no such node, or it is off.
        RuntimeError: containerd refused the archive.
    """
    images.load(known(home, name).containerd_socket, archive)


def get(home: Home, name: str) -> Node:
    """The node `name`; raises `NodeError` if there is none."""
    return known(home, name)


def wait_ready(home: Home, name: str, timeout: float = 60.0) -> None:
    """Return as soon as the Node object is Ready.

    Raises:
        NodeError: it is not within `timeout` seconds, or its init ended; shows the logs' ends.
    """
    plane = control_plane(home)
    node = known(home, name)
    deadline = time.monotonic() + timeout
    while not is_ready(request(plane, "GET", f"/api/v1/nodes/{name}")):
        if node.init is None:
            raise NodeError(f"node {name} went off while starting. The end of its log:\n{tail(service(node).log)}")
        if time.monotonic() > deadline:
            ends = "\n".join(f"{log.name}:\n{tail(log, 8)}" for log in sorted(node.logs.glob("*.log")))
            raise NodeError(f"node {name} is not Ready after {timeout:.0f} s.\n{ends}")
        time.sleep(0.1)


def down_all(home: Home) -> None:
    """Remove every node of this home with all its processes, mounts, namespaces, control groups and links; also after a crash of ours."""
    for node in list_nodes(home):
        with lock(home, node.name):
            switch_off(node)
    own = cgroup_of(home)
    own.kill()  # whatever a crash left without its files
    own.remove()
    net.disconnect_all(home.root / "nodes")
    shutil.rmtree(home.root / "nodes", ignore_errors=True)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `node` and its verbs to the command line."""
    verbs = subparsers.add_parser("node", help="add, look at and disturb nodes").add_subparsers(required=True, metavar="VERB")
    adding = verbs.add_parser("add", help="boot a node and wait until it is Ready")
    adding.add_argument("--pool", help=f"TYPE/ZONE/spot or TYPE/ZONE/on-demand, default {DEFAULT_POOL}")
    adding.add_argument("--name", help="of the Node object; made from the pool if left out")
    adding.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    adding.add_argument("--taint", action="append", default=[], metavar="KEY[=VALUE]:EFFECT")
    adding.add_argument(
        "--system", action="store_true", help=f"for the product's own pods: label {SYSTEM_LABEL}, default pool {SYSTEM_POOL}"
    )
    adding.add_argument("--real-images", action="store_true", help="mount nothing of the host: images of the Dockerfiles run as they are")
    adding.add_argument("--no-wait", action="store_true")
    adding.set_defaults(run=_add)
    verbs.add_parser("list", help="all nodes, also those that are off").set_defaults(run=_list)
    for verb, call, text in (
        ("wait", wait_ready, "wait until the node is Ready"),
        ("pause", pause, "freeze everything on it"),
        ("resume", resume, "let it run on"),
        ("cut", cut, "cut it off the network"),
        ("heal", heal, "connect it again"),
        ("delete", delete, "power it off and forget it"),
    ):
        parser = verbs.add_parser(verb, help=text)
        parser.add_argument("name", metavar="NAME")
        parser.set_defaults(run=_verb(call))
    importing = verbs.add_parser("import", help="give it an image archive")
    importing.add_argument("name", metavar="NAME")
    importing.add_argument("archive", type=Path)
    importing.set_defaults(run=_import)
    from localcloud import interruption  # here, since it imports this module

    interruption.register_node_verbs(verbs)


def _verb(call: Callable[[Home, str], None]) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        call(arguments.home, arguments.name)
        return 0

    return run


def _add(arguments: argparse.Namespace) -> int:
    try:
        node = add(
            arguments.home,
            arguments.pool or (SYSTEM_POOL if arguments.system else DEFAULT_POOL),
            name=arguments.name,
            labels=dict(label.partition("=")[::2] for label in arguments.label),
            taints=arguments.taint,
            system=arguments.system,
            real_images=arguments.real_images,
            wait=not arguments.no_wait,
        )
    except ValueError as error:
        raise NodeError(str(error)) from None
    print(f"{node.name}  {node.pool}  {node.instance_id}  {node.address}")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    import_image(arguments.home, arguments.name, arguments.archive)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    row = "{:<32} {:<8} {:<32} {:<20} {:<13} {}"
    print(row.format("NAME", "STATE", "POOL", "INSTANCE", "ADDRESS", "PODS"))
    for node in list_nodes(arguments.home):
        print(row.format(node.name, node.state, node.pool, node.instance_id, node.address, node.pod_cidr))
    return 0


def _up(home: Home) -> str:
    node = add(home, SYSTEM_POOL, name=_SYSTEM_NODE, system=True, wait=True)
    return f"{node.name} Ready, {node.pool}, {node.address}"


def _status(home: Home) -> list[Row]:
    return [Row(f"node {node.name}", node.state.lower(), f"{node.pool}, {node.address}") for node in list_nodes(home)]


STEP = Step("nodes", _up, down_all, _status)
