"""How a node is put together, switched on and switched off."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from localcloud import containerd, images, kubelet, net
from localcloud.controlplane import ControlPlane
from localcloud.home import Home
from localcloud.noderecord import Node, NodeError, lock, write
from localcloud.pools import REGION, Pool
from localcloud.process import Service, tail

_REPOSITORY = Path(__file__).resolve().parent.parent
_MOUNT_POINTS = (Path("/var/log/containers"), Path("/var/lib/cni"))
"""Folders that kubelet and pod network insist on; each node mounts its own there. On the machine they stay empty."""


def prepare(home: Home, name: str, pool: Pool, instance: str, provider_id: str | None, *, static: bool) -> Node:
    directory = home.root / "nodes" / name
    shutil.rmtree(directory, ignore_errors=True)  # of an earlier node, or of a crash before it was known
    directory.mkdir(parents=True)
    index = net.reserve(directory)
    node = Node(home, name, str(pool), index, instance, provider_id or f"aws:///{pool.zone}/{instance}", static)
    write(node, {})
    return node


def configure(node: Node, pool: Pool, plane: ControlPlane, labels: Mapping[str, str], taints: Sequence[str], real_images: bool) -> None:
    labels = {
        "node.kubernetes.io/instance-type": pool.instance_type,
        "topology.kubernetes.io/zone": pool.zone,
        "topology.kubernetes.io/region": REGION,
        "karpenter.sh/capacity-type": pool.capacity_type,
        **labels,
    }
    archive = node.home.data("images") / "local.tar"
    images.build(archive)
    configuration = containerd.write(node.directory, node.index, real_images)
    registration = kubelet.Registration(node.name, node.address, node.provider_id, labels, taints)
    with lock(node.home, "@identities"):  # kube-proxy's certificate is all nodes', and is made by the first of them
        kubelet_command, proxy_command = kubelet.write(node.directory, registration, plane, node.cgroup.pods)
    node.logs.mkdir(parents=True, exist_ok=True)
    identity = {
        "instance_id": node.instance_id,
        "instance_type": pool.instance_type,
        "zone": pool.zone,
        "capacity_type": pool.capacity_type,
        "address": node.address,
        "hostname": node.name,
    }
    more = {
        "cgroup": node.cgroup.path,
        "identity": identity,
        "logs": str(node.logs),
        "containerd": str(configuration),
        "images": str(archive),
        "kubelet": kubelet_command,
        "kube_proxy": proxy_command,
    }
    write(node, more)


def boot(node: Node) -> None:
    node.cgroup.create()
    for path in _MOUNT_POINTS:
        path.mkdir(parents=True, exist_ok=True)
    service(node).start()
    init = node.init
    if init is None:
        raise NodeError(f"node {node.name} went off at once. The end of its log:\n{tail(service(node).log)}")
    net.connect(node.index, init.pid)


def switch_off(node: Node) -> None:
    if node.init is not None and net.is_plugged_in(node.index):
        # First the silence: a machine that loses power says no goodbye, so its peers may not see closed connections.
        net.cut(node.index)
    node.cgroup.kill()
    service(node).stop()
    node.cgroup.remove()
    net.disconnect(node.index)
    for name in ("containerd", "kubelet", "cni-cache"):
        shutil.rmtree(node.directory / name, ignore_errors=True)
    (node.directory / "init.json").unlink(missing_ok=True)


def service(node: Node) -> Service:
    namespaces = ("--net", "--mount", "--pid", "--uts", "--fork", "--kill-child")
    command = ("unshare", *namespaces, sys.executable, "-m", "localcloud.machine", str(node.directory))
    return Service(node.home, f"node-{node.name}", command, ready=lambda: node.init is not None, ready_timeout=20.0, cwd=_REPOSITORY)
