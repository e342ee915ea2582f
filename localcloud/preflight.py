"""What a machine must offer before nodes can be started on it, said all at once and each with its remedy."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from localcloud import cgroups, packages
from localcloud.home import APISERVER_PORT, HOST_ADDRESS, MOTO_PORT, S3_PORT, Home
from localcloud.process import find

_CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN"}
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
_FIRST_GIGABYTES = 10.0
"""The demo's cluster with its objects, logs and images stays below half of it."""
_AGAIN_GIGABYTES = 2.0


class PreflightError(RuntimeError):
    """The machine can't run the local cluster; the message lists every reason and remedy."""


@dataclass(frozen=True)
class Machine:
    """What was found; `judge` decides.

    Attributes:
        system: `sys.platform`.
        uid: effective user.
        capabilities: effective capability bits.
        missing_devices: device files that are not there.
        cgroup_refusals: one text per control group tree that refuses a new group.
        namespace_refusal: why new namespaces are refused, or "".
        home: where the state goes.
        free_gigabytes: free there.
        needed_gigabytes: more for the first `up`.
        missing_packages: Debian packages.
        taken: addresses of ours that somebody else answers at.
    """

    system: str
    uid: int
    capabilities: int
    missing_devices: tuple[str, ...]
    cgroup_refusals: tuple[str, ...]
    namespace_refusal: str
    home: Path
    free_gigabytes: float
    needed_gigabytes: float
    missing_packages: tuple[packages.Package, ...]
    taken: tuple[str, ...]


def judge(machine: Machine) -> list[str]:
    """Every reason why the cluster can't run, each with its remedy; empty if it can. Pure."""
    if not machine.system.startswith("linux"):
        return [f"the local cluster needs Linux, this is {machine.system}: use a virtual machine, or kind with kind-config.yaml"]
    if machine.uid != 0:
        return ["not root: nodes need namespaces, control groups and a bridge. Run it with sudo, or use kind with kind-config.yaml"]
    reasons = []
    lacking = [name for bit, name in _CAPABILITIES.items() if not machine.capabilities >> bit & 1]
    if lacking:
        reasons.append(f"root without {' and '.join(lacking)}: in a container, start it privileged")
    if machine.missing_devices:
        reasons.append(f"no {', '.join(machine.missing_devices)}: mount a devtmpfs on /dev (in a container, start it privileged)")
    reasons += [
        f"control groups can't be made: {text}: mount /sys/fs/cgroup writable (in a container, start it privileged)"
        for text in machine.cgroup_refusals
    ]
    if machine.namespace_refusal and not lacking:
        reasons.append(f"namespaces are refused ({machine.namespace_refusal}): raise /proc/sys/user/max_*_namespaces")
    if machine.free_gigabytes < machine.needed_gigabytes:
        free = f"{machine.free_gigabytes:.1f} GB free at {machine.home}, {machine.needed_gigabytes:.0f} are needed"
        reasons.append(f"{free}: free some, or name a larger disk by --home")
    if machine.missing_packages:
        names = " ".join(package.name for package in machine.missing_packages)
        reasons.append(f"missing Debian packages: {names}: .venv/bin/python -m localcloud packages --install")
    if machine.taken:
        other = f"somebody else answers at {', '.join(machine.taken)}, most likely a local cluster with another home"
        reasons.append(f"{other}: take that one down (see its home with: ps -ef | grep kube-apiserver)")
    return reasons


def look(home: Home) -> Machine:
    """Look at this machine; leaves nothing behind."""
    existing = next(path for path in (home.root, *home.root.parents) if path.exists())
    return Machine(
        system=sys.platform,
        uid=os.geteuid(),
        capabilities=_effective_capabilities(),
        missing_devices=tuple(device for device in _DEVICES if not _is_device(Path(device))),
        cgroup_refusals=_cgroup_refusals(),
        namespace_refusal=_namespace_refusal(),
        home=home.root,
        free_gigabytes=shutil.disk_usage(existing).free / 1e9,
        needed_gigabytes=_AGAIN_GIGABYTES if home.kubeconfig.exists() else _FIRST_GIGABYTES,
        missing_packages=packages.missing(),
        taken=_taken(home),
    )


def require(home: Home) -> None:
    """Raises `PreflightError` with all reasons unless this machine can run the local cluster."""
    reasons = judge(look(home))
    if reasons:
        raise PreflightError("this machine can't run the local cluster:" + "".join(f"\n  - {reason}" for reason in reasons))


def _taken(home: Home) -> tuple[str, ...]:
    ours = {"kube-apiserver": APISERVER_PORT, "seaweedfs": S3_PORT, "moto": MOTO_PORT}
    # Without a home nothing of ours can run; asking would make one.
    foreign = [port for name, port in ours.items() if not (home.root.exists() and find(home, name))]
    return tuple(f"{HOST_ADDRESS}:{port}" for port in foreign if answers(HOST_ADDRESS, port))


def answers(address: str, port: int) -> bool:
    """Whether a server on this machine answers at `address`. Where the address is not ours, a gateway may accept anything."""
    try:
        with socket.create_connection((address, port), timeout=1) as connection:
            return bool(connection.getsockname()[0] == address)
    except OSError:
        return False


def _effective_capabilities() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return next(int(line.split()[1], 16) for line in status.read_text().splitlines() if line.startswith("CapEff:"))


def _is_device(path: Path) -> bool:
    return path.exists() and stat.S_ISCHR(path.stat().st_mode)


def _cgroup_refusals() -> tuple[str, ...]:
    if not Path("/proc/self/mountinfo").exists():
        return ()
    trees = set(cgroups.hierarchies().values())
    refusals = [] if trees else ["none is mounted"]
    for tree in sorted(trees):
        probe = tree / f"spottune-preflight-{os.getpid()}"
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            refusals.append(f"{tree}: {error.strerror}")
    return tuple(refusals)


def _namespace_refusal() -> str:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return ""
    attempt = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"], capture_output=True, text=True, check=False
    )
    return attempt.stderr.strip()
