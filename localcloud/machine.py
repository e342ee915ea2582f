"""PID 1 of a node: `python -m localcloud.machine DIRECTORY`, started by `node.add` in namespaces of its own.

It makes the node's file system view and network, serves IMDS, starts containerd, kubelet and kube-proxy, restarts what ends and reaps orphans.
When it is killed, the kernel kills everything in the node and drops all its mounts: that is the node's power switch.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localcloud import containerd, images, imds, net
from localcloud.cgroups import NodeCgroup
from localcloud.home import HOST_ADDRESS, write_private

_CABLE_SECONDS = 30.0
_RESTART_SECONDS = 1.0
# The kubelet wants these values and would set them for the whole machine. It finds them set already, and the machine stays as it is.
_KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


@dataclass
class Daemon:
    """One program that init keeps running; its output goes to `log`."""

    name: str
    command: list[str]
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, start_new_session=True
            )


def main() -> int:
    directory = Path(sys.argv[1])
    record = json.loads((directory / "node.json").read_text())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    NodeCgroup(record["cgroup"]).join()
    # /proc is still the machine's, so this is our PID as the machine sees it.
    stat = Path("/proc/self/stat").read_text()
    pid, started = int(stat.split()[0]), int(stat[stat.rindex(")") + 2 :].split()[19])
    write_private(directory / "init.json", json.dumps({"pid": pid, "started": started}))
    _file_system(directory)
    _network(record)
    _serve_imds(directory, record)
    _run(directory, record)
    return 0


def _file_system(directory: Path) -> None:
    socket.sethostname(json.loads((directory / "node.json").read_text())["name"])
    _mount("--make-rshared", "/")  # containers' mounts spread within the node; unshare has cut us off from the machine's
    _mount("-t", "proc", "-o", "nosuid,nodev,noexec", "proc", "/proc")
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for path in (Path("/run/lock"), Path("/run/netns"), containerd.RUN, containerd.NODE):
        path.mkdir()
    _mount("--bind", str(directory), str(containerd.NODE))
    settings = Path("/run/kernel-settings")
    for setting, value in _KERNEL_SETTINGS.items():
        file = settings / setting
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
        _mount("--bind", str(file), f"/proc/sys/{setting}")
    for fixed, own in {"/var/log/containers": "container-logs", "/var/lib/cni": "cni-cache"}.items():
        (directory / own).mkdir(exist_ok=True)
        _mount("--bind", str(directory / own), fixed)


def _network(record: dict[str, Any]) -> None:
    index: int = record["index"]
    deadline = time.monotonic() + _CABLE_SECONDS
    while not _has_cable():
        if time.monotonic() > deadline:
            raise SystemExit(f"no cable after {_CABLE_SECONDS:.0f} s: whoever added this node is gone")
        time.sleep(0.005)
    for setting in ("all/accept_redirects", "default/accept_redirects", "all/send_redirects", "default/send_redirects"):
        Path("/proc/sys/net/ipv4/conf", setting).write_text("0")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    net.command("ip", "link", "set", "lo", "up")
    net.command("ip", "address", "add", f"{net.IMDS_ADDRESS}/32", "dev", "lo")
    net.command("ip", "address", "add", f"{net.node_address(index)}/16", "dev", "eth0")
    net.command("ip", "link", "set", "eth0", "up")
    net.command("ip", "route", "add", "default", "via", HOST_ADDRESS)
    net.command("nft", "-f", "-", given=net.NODE_RULES)


def _has_cable() -> bool:
    # /sys shows the network of whoever mounted it, so /proc is asked.
    return any(line.split(":")[0].strip() == "eth0" for line in Path("/proc/net/dev").read_text().splitlines())


def _serve_imds(directory: Path, record: dict[str, Any]) -> None:
    server = imds.server((net.IMDS_ADDRESS, 80), record["identity"], directory / imds.STATE_FILE)
    threading.Thread(target=server.serve_forever, name="imds", daemon=True).start()


def _run(directory: Path, record: dict[str, Any]) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": "/root"}
    logs = Path(record["logs"])

    def daemon(name: str, command: list[str]) -> Daemon:
        return Daemon(name, command, logs / f"{name}.log", env)

    runtime = daemon("containerd", ["containerd", "--config", record["containerd"]])
    kubelet, proxy = daemon("kubelet", record["kubelet"]), daemon("kube-proxy", record["kube_proxy"])
    runtime.start()
    proxy.start()
    deadline = time.monotonic() + 30
    while not _listens(containerd.SOCKET):
        if time.monotonic() > deadline:
            raise SystemExit(f"containerd does not answer; see {runtime.log}")
        time.sleep(0.02)
    images.load(containerd.SOCKET, Path(record["images"]))  # before any pod can ask for them: a failed pull would wait for 10 s
    kubelet.start()
    _supervise([runtime, kubelet, proxy])


def _supervise(daemons: list[Daemon]) -> None:
    """Reap whatever ends (PID 1 inherits all orphans); start a daemon that ended again after a second."""
    due: dict[str, float] = {}
    while True:
        for daemon in daemons:
            if due.get(daemon.name, float("inf")) <= time.monotonic():
                del due[daemon.name]
                daemon.start()
        try:
            pid, status = os.waitpid(-1, os.WNOHANG if due else 0)
        except ChildProcessError:
            pid, status = 0, 0
        for daemon in daemons:
            if daemon.process is not None and daemon.process.pid == pid and pid:
                print(f"{daemon.name} ended with status {status}; starting it again", flush=True)
                due[daemon.name] = time.monotonic() + _RESTART_SECONDS
        if not pid:
            time.sleep(0.1)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mount {' '.join(arguments)} failed: {done.stderr.strip()}")


if __name__ == "__main__":
    sys.exit(main())
