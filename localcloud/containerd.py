"""containerd and its pod network on one node: the configuration it gets, and the base specification of its containers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from localcloud import images, net

RUN = Path("/run/containerd")
SOCKET = RUN / "containerd.sock"
NODE = Path("/run/node")
"""The node's directory as seen inside the node: short, since sockets below it may have at most 107 characters in their path."""
_CNI_PLUGINS = ("/usr/lib/cni", "/opt/cni/bin")
_PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "catatonit": "catatonit",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "unshare": "util-linux",
}
"""Each with the package that has it."""
_CAP_SYS_RESOURCE = 24


class MissingProgram(RuntimeError):
    """A program that nodes need is not installed; the message names the package."""


def check() -> None:
    """Raises `MissingProgram` unless everything a node runs is installed."""
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            raise MissingProgram(f"{program} is not installed: apt-get install {package} (all of localcloud/packages.txt)")
    if not any((Path(directory) / "bridge").exists() for directory in _CNI_PLUGINS):
        raise MissingProgram("the pod network plugins are not installed: apt-get install containernetworking-plugins")


def write(directory: Path, index: int, real_images: bool) -> Path:
    """Write configuration, pod network and base specification below the node's `directory`; returns the configuration's path."""
    cni = directory / "cni"
    cni.mkdir(parents=True, exist_ok=True)
    (cni / "10-spottune.conflist").write_text(json.dumps(_pod_network(index), indent=1))
    base = None
    if not real_images:
        base = directory / "base-spec.json"
        base.write_text(json.dumps(_base_specification()))
    path = directory / "containerd.toml"
    path.write_text(_configuration(NODE / "containerd", NODE / "cni", base and NODE / base.name, _may_lower_oom_score()))
    return path


def _configuration(root: Path, cni: Path, base: Path | None, may_lower_oom_score: bool) -> str:
    base_line = f'base_runtime_spec = "{base}"' if base else ""
    plugins = next((d for d in _CNI_PLUGINS if (Path(d) / "bridge").exists()), _CNI_PLUGINS[0])
    # Without CAP_SYS_RESOURCE runc cannot lower the OOM score of the sandbox and dies with "can't get final child's PID from pipe".
    restrict = "false" if may_lower_oom_score else "true"
    return f"""version = 2
root = "{root}"
state = "{RUN}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{images.PAUSE}"
restrict_oom_score_adj = {restrict}
tolerate_missing_hugetlb_controller = true
disable_hugetlb_controller = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{cni}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
{base_line}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def _pod_network(index: int) -> dict[str, Any]:
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni",  # in the node's memory: a node that went off forgets its pods' addresses
        "ranges": [[{"subnet": net.pod_network(index)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": net.POD_BRIDGE, "isGateway": True, "ipMasq": False, "hairpinMode": True, "ipam": ipam}
    return {"cniVersion": "0.4.0", "name": "spottune", "plugins": [bridge]}


def _base_specification() -> dict[str, Any]:
    printed = subprocess.run(["ctr", "oci", "spec"], capture_output=True, text=True, check=True).stdout
    specification: dict[str, Any] = json.loads(printed)
    specification["process"].pop("rlimits", None)  # ctr's 1024 open files; kubelets leave the system's
    specification["mounts"] = [m for m in specification["mounts"] if m["destination"] != "/run"] + images.host_mounts()
    return specification


def _may_lower_oom_score() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
    return os.geteuid() == 0 and bool(int(effective, 16) >> _CAP_SYS_RESOURCE & 1)
