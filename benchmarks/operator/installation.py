"""A control plane on the loopback address with the product's CRD and roles, and the operator as a process of its own."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.operator.api import Api
from benchmarks.operator.audit import Audit
from benchmarks.operator.etcd import Etcd
from localcloud import process
from localcloud.assets import binary
from localcloud.controlplane import ControlPlane
from localcloud.home import Home

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_NAMESPACE = "spottune-system"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Installation:
    """What the parts of the benchmark work with."""

    plane: ControlPlane
    audit: Audit
    api: Api
    etcd: Etcd
    kubeconfig: Path
    """With the rights that the chart gives the operator, and no others."""

    async def calm(self, share: float = 0.2, timeout: float = 60) -> None:
        """Wait until the control plane has taken in what was written: all its parts together use less than this share of a core."""
        give_up = time.monotonic() + timeout
        while time.monotonic() < give_up:
            before = sum(self.cpu().values())
            await asyncio.sleep(2)
            if sum(self.cpu().values()) - before < 2 * share:
                return

    def cpu(self, *others: int) -> dict[str, float]:
        """CPU seconds so far of the control plane's parts and of other processes, by name or id."""
        found = {name: cpu_seconds(there.pid) for name, there in process.services(self.plane.home).items()}
        return found | {str(pid): cpu_seconds(pid) for pid in others}


@asynccontextmanager
async def installation() -> AsyncIterator[Installation]:
    """Everything up; gone with its data at the end."""
    home = Home(Path(tempfile.mkdtemp(prefix="spottune-bench-")))
    try:
        audit = Audit.of(home)
        plane = ControlPlane(home, apiserver_flags=audit.flags)
        plane.up()
        kubeconfig = _install(plane)
        admin = plane.authority.client("kubernetes-admin", ["system:masters"])
        context = ssl.create_default_context(cafile=str(plane.authority.ca.certificate))
        context.load_cert_chain(str(admin.certificate), str(admin.key))
        async with Api.opened(plane.server, context) as api, Etcd.opened(plane.etcd_endpoint) as etcd:
            yield Installation(plane, audit, api, etcd, kubeconfig)
    finally:
        process.stop_all(home, timeout=1)
        shutil.rmtree(home.root, ignore_errors=True)


def _install(plane: ControlPlane) -> Path:
    def kubectl(*arguments: str, text: str | None = None) -> str:
        command = [str(binary("kubectl")), "--kubeconfig", str(plane.kubeconfig), *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout

    chart = ROOT / "charts" / "spottune"
    helm = [str(binary("helm")), "template", "spottune", str(chart), "--namespace", SYSTEM_NAMESPACE, "--set", "clusterName=bench"]
    roles = subprocess.run([*helm, "--show-only", "templates/operator-rbac.yaml"], capture_output=True, text=True, check=True).stdout
    kubectl("create", "namespace", SYSTEM_NAMESPACE)
    kubectl("apply", "-f", "-", text=roles)
    kubectl("apply", "-f", str(ROOT / "crds"))
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    token = kubectl("-n", SYSTEM_NAMESPACE, "create", "token", "spottune-operator", "--duration=2h").strip()
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"] = [{"name": "operator", "user": {"token": token}}]
    config["contexts"] = [{"name": "operator", "context": {"cluster": config["clusters"][0]["name"], "user": "operator"}}]
    config["current-context"] = "operator"
    path = plane.home.root / "operator-kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


class Operator:
    """`python -m spottune_operator`, started when constructed. The next one takes over the Lease of the one before at once."""

    def __init__(self, where: Installation, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
        self.began = time.monotonic()
        self._port = free_port()
        self.log = where.plane.home.logs / "operator.log"
        command = [sys.executable, "-m", "spottune_operator", "--kubeconfig", str(where.kubeconfig), "--cluster-name", "bench"]
        command += ["--trainer-image", "spottune.local/trainer:dev", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--namespace", SYSTEM_NAMESPACE, "--identity", "operator", "--log-level", "warning", *arguments]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **(environ or {})})

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def leads(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as response:
                return "spottune_leader 1.0" in response.read().decode()
        except OSError:
            return False

    async def await_leading(self, timeout: float = 60) -> Operator:
        await until(lambda: self.leads or self._process.poll() is not None, "the operator leads", timeout)
        assert self._process.poll() is None, process.tail(self.log)
        return self

    def memory(self) -> tuple[float, float]:
        """Megabytes now and at most so far."""
        return megabytes(self.pid)

    def metric(self, series: str) -> float:
        """One series of `/metrics`; 0 if it is not there."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == series), 0.0)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


async def until(look: Callable[[], object], what: str, timeout: float) -> None:
    """Wait until `look` is true. Raises `TimeoutError` with `what`."""
    give_up = time.monotonic() + timeout
    while not await asyncio.to_thread(look):
        if time.monotonic() > give_up:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        await asyncio.sleep(0.1)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def megabytes(pid: int) -> tuple[float, float]:
    """Resident memory of a process: now, and at most so far."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024


def percentile(values: list[float], share: float) -> float:
    """The value that this share of all values does not exceed (nearest rank). Pure."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def free_port() -> int:
    """One of the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
