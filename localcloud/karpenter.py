"""Karpenter's AWS provider, the real one, as a process beside the control plane; its cloud is moto."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from localcloud import golang
from localcloud.assets import ASSETS, AssetError, binary, cache_directory
from localcloud.controlplane import ControlPlane
from localcloud.home import Home, write_private
from localcloud.moto_server import Moto
from localcloud.pools import REGION
from localcloud.process import Service, ServiceError, find, stop
from localcloud.seed import ACCESS_KEY, CLUSTER, KARPENTER_QUEUE, load
from localcloud.steps import Row, Step

MODULE = "github.com/aws/karpenter-provider-aws"
VERSION = next(asset.version for asset in ASSETS if asset.name == "karpenter")
_GOMOD = Path(__file__).resolve().parent / "gomod" / "karpenter"
_GATES = ("NodeRepair", "ReservedCapacity", "SpotToSpotConsolidation", "NodeOverlay", "StaticCapacity", "CapacityBuffer")
CRDS = (
    "karpenter.sh_nodeclaims.yaml",
    "karpenter.sh_nodepools.yaml",
    "karpenter.sh_nodeoverlays.yaml",
    "karpenter.k8s.aws_ec2nodeclasses.yaml",
)


@dataclass(frozen=True)
class Karpenter:
    """Karpenter for one control plane and one cloud."""

    plane: ControlPlane
    endpoint: str
    """Where moto listens."""

    @classmethod
    def of_cluster(cls, home: Home) -> Karpenter:
        """The one of the cluster with nodes."""
        return cls(ControlPlane.of_cluster(home), Moto.of_cluster(home).endpoint)

    @property
    def home(self) -> Home:
        return self.plane.home

    @property
    def service(self) -> Service:
        return Service(
            self.home, "karpenter", [binary("karpenter")], env=self._environment(), ready=self._ready, ready_timeout=60, stop_timeout=3
        )

    def up(self) -> None:
        """Installs the CRDs and starts it. Needs the control plane, moto and the seed. Raises `ServiceError`."""
        self.install_crds()
        self.service.start()

    def down(self) -> None:
        """Stops it; NodeClaims and instances stay as they are."""
        self.service.stop()

    def install_crds(self) -> None:
        """Applies the CRDs of the very version that runs, and waits until the API server serves them."""
        files = [str(path) for path in crd_files()]
        self._kubectl("apply", "--server-side", "--force-conflicts", *(word for path in files for word in ("-f", path)))
        self._kubectl("wait", "--for=condition=Established", "--timeout=30s", *(word for path in files for word in ("-f", path)))

    def _kubectl(self, *arguments: str) -> None:
        command = [str(binary("kubectl")), f"--kubeconfig={self.plane.kubeconfig}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise ServiceError(f"kubectl {' '.join(arguments[:2])} failed: {done.stderr.strip()}")

    def _environment(self) -> dict[str, str]:
        cloud = load(self.home)
        return {
            "KUBECONFIG": str(self.plane.client_config("karpenter", ["system:masters"])),
            "SYSTEM_NAMESPACE": "kube-system",
            "DISABLE_LEADER_ELECTION": "true",
            "METRICS_PORT": str(self.home.port("karpenter-metrics")),
            "HEALTH_PROBE_PORT": str(self.home.port("karpenter-health")),
            "FEATURE_GATES": ",".join(f"{gate}=false" for gate in _GATES),
            # A pending pod is provisioned for this long after the last other one appeared; 1 s and 10 s are meant for big clusters.
            "BATCH_IDLE_DURATION": "200ms",
            "BATCH_MAX_DURATION": "2s",
            "CLUSTER_NAME": CLUSTER,
            "CLUSTER_ENDPOINT": self.plane.server,
            "INTERRUPTION_QUEUE": KARPENTER_QUEUE,
            # There is no price list service here: spot prices come from EC2, on-demand ones from its built-in table.
            "ISOLATED_VPC": "true",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": ACCESS_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
            "LOG_LEVEL": "info",
            # Means nothing to Karpenter: a moto that forgot everything has other ids, and what Karpenter remembers of it would be wrong,
            # so it is started anew.
            "SPOTTUNE_LOCALCLOUD_ACCOUNT": cloud.security_group if cloud else "",
        }

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.home.port('karpenter-health')}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def crd_files() -> tuple[Path, ...]:
    """Karpenter's CRDs, copied once per machine from the module that the program is built from.

    Raises:
        AssetError: they are not there and Go can't fetch the module.
    """
    folder = cache_directory() / f"karpenter-crds-{VERSION}"
    if not all((folder / name).exists() for name in CRDS):
        source = _module_directory() / "pkg" / "apis" / "crds"
        folder.mkdir(parents=True, exist_ok=True)
        for name in CRDS:
            write_private(folder / name, (source / name).read_bytes(), mode=0o644)
    return tuple(folder / name for name in CRDS)


def _module_directory() -> Path:
    try:
        go = golang.toolchain(cache_directory())
    except golang.BuildError as error:
        raise AssetError(f"Karpenter's CRDs come from its Go module: {error}") from error
    # The version is the one that go.mod requires, checked against go.sum.
    command = [str(go), "mod", "download", "-json", MODULE]
    environment = os.environ | {"GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local"}
    done = subprocess.run(command, cwd=_GOMOD, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise AssetError(f"Karpenter's CRDs: `go mod download {MODULE}` failed in {_GOMOD}: {done.stdout.strip()} {done.stderr.strip()}")
    return Path(json.loads(done.stdout)["Dir"])


def _up(home: Home) -> str:
    Karpenter.of_cluster(home).up()
    return f"{VERSION}, queue {KARPENTER_QUEUE}"


def _status(home: Home) -> list[Row]:
    process = find(home, "karpenter")
    return [Row("Karpenter", "running" if process else "stopped", f"pid {process.pid}" if process else "")]


STEP = Step("Karpenter", _up, lambda home: stop(home, "karpenter", 3), _status)
