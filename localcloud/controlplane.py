"""Kubernetes' own control plane as plain processes: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.

RBAC and the Node authorizer, NodeRestriction, Pod Security, ValidatingAdmissionPolicy, service account tokens bound to their node: all of it is the
real thing. Several control planes can run side by side on 127.0.0.1, each in a home of its own.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localcloud.assets import binary
from localcloud.home import APISERVER_PORT, HOST_ADDRESS, SERVICE_NETWORK, Home
from localcloud.pki import Authority, Pair
from localcloud.process import Service, find
from localcloud.steps import Row, Step

_SERVICE_ADDRESS = "198.19.128.1"
"""The `kubernetes` service: the first address of the service network."""
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ControlPlane:
    """One control plane.

    Attributes:
        home: where its state lies.
        address: what the API server listens on; 127.0.0.1 for tests, 198.18.0.1 (the bridge, see `net`) for the cluster with nodes.
        port: the API server's port; 0 means a free one, the same at every call for one home.
        apiserver_flags: more flags of the API server, an audit policy for example.
    """

    home: Home
    address: str = _LOOPBACK
    port: int = 0
    apiserver_flags: tuple[str, ...] = ()

    @classmethod
    def of_cluster(cls, home: Home) -> ControlPlane:
        """The control plane that nodes on the bridge can reach."""
        return cls(home, HOST_ADDRESS, APISERVER_PORT)

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{self.address}:{self.port or self.home.port('kube-apiserver')}"

    @property
    def etcd_endpoint(self) -> str:
        """etcd's client URL (loopback, plain)."""
        return f"http://{_LOOPBACK}:{self.home.port('etcd')}"

    @property
    def authority(self) -> Authority:
        return Authority(self.home.pki)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig (group system:masters)."""
        return self.home.kubeconfig

    def client_config(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for another identity, by client certificate: `client_config("alice", ["team-a"])`."""
        label = "_".join([user, *groups]).replace("/", "-").replace(":", "-")
        return self.authority.kubeconfig(self.home.root / "kubeconfigs" / label, self.server, user, groups)

    def node_config(self, node: str) -> Path:
        """A kubelet's kubeconfig: system:node:NODE in group system:nodes."""
        return self.client_config(f"system:node:{node}", ["system:nodes"])

    def kubelet_serving(self, node: str, hosts: Sequence[str]) -> Pair:
        """A kubelet's serving certificate for its addresses; the API server checks it for logs and exec."""
        return self.authority.kubelet_server(node, hosts)

    def up(self) -> None:
        """Start what does not run, wait until the API is ready and the controllers work.

        Raises:
            ServiceError: a part did not come up; the message shows its log's end.
            AssetError: a program is missing and can't be had.
        """
        self.authority.kubeconfig(self.kubeconfig, self.server, "kubernetes-admin", ["system:masters"])
        self.etcd().start()
        self.apiserver().start()
        controllers = (self.controller_manager(), self.scheduler())
        for service in controllers:
            service.spawn()
        for service in controllers:
            service.await_ready()

    def down(self) -> None:
        """Stop everything, the last started first. State stays in the home."""
        for service in (self.scheduler(), self.controller_manager(), self.apiserver(), self.etcd()):
            service.stop()

    def etcd(self) -> Service:
        """etcd without fsync: a crash of processes loses nothing, a power cut may; the state is a local cluster's."""
        peer = f"http://{_LOOPBACK}:{self.home.port('etcd-peer')}"
        command: list[str | Path] = [
            binary("etcd"),
            "--name=local",
            f"--data-dir={self.home.data('etcd')}",
            f"--listen-client-urls={self.etcd_endpoint}",
            f"--advertise-client-urls={self.etcd_endpoint}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=local={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]
        return Service(self.home, "etcd", command, ready=lambda: _answers(f"{self.etcd_endpoint}/health"))

    def apiserver(self) -> Service:
        authority = self.authority
        hosts = [*sorted({self.address, _LOOPBACK}), _SERVICE_ADDRESS, "localhost", "kubernetes.default.svc"]
        serving = authority.server("kube-apiserver", hosts)
        kubelet_client = authority.client("kube-apiserver-kubelet-client", ["system:masters"])
        tokens = authority.signing_key("service-account")
        host, port = self.server.removeprefix("https://").split(":")
        command: list[str | Path] = [
            binary("kube-apiserver"),
            f"--etcd-servers={self.etcd_endpoint}",
            f"--bind-address={host}",
            f"--advertise-address={host}",
            f"--secure-port={port}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={authority.ca.certificate}",
            f"--kubelet-certificate-authority={authority.ca.certificate}",
            f"--kubelet-client-certificate={kubelet_client.certificate}",
            f"--kubelet-client-key={kubelet_client.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={tokens}",
            f"--service-account-signing-key-file={tokens}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
            "--profiling=false",
            *self.apiserver_flags,
        ]
        if self.address == _LOOPBACK:
            # A loopback address may not stand in the endpoints of the `kubernetes` service; nobody reads them without nodes.
            command.append("--endpoint-reconciler-type=none")
        # It would wait for open watches; etcd has what was acknowledged.
        return Service(self.home, "kube-apiserver", command, ready=self._api_ready, stop_timeout=2)

    def controller_manager(self) -> Service:
        authority = self.authority
        config = self.client_config("system:kube-controller-manager")
        port = self.home.port("kube-controller-manager")
        command: list[str | Path] = [
            binary("kube-controller-manager"),
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            f"--bind-address={_LOOPBACK}",
            f"--secure-port={port}",
            f"--root-ca-file={authority.ca.certificate}",
            f"--service-account-private-key-file={authority.signing_key('service-account')}",
            f"--cluster-signing-cert-file={authority.ca.certificate}",
            f"--cluster-signing-key-file={authority.ca.key}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            # A dead node is NotReady after 20 s instead of 50: our kubelets renew their leases every 4 s (nodeLeaseDurationSeconds 16).
            "--node-monitor-period=2s",
            "--node-monitor-grace-period=20s",
            "--kube-api-qps=100",
            "--kube-api-burst=200",
            "--profiling=false",
        ]
        return Service(self.home, "kube-controller-manager", command, ready=lambda: self._healthy(port) and self._default_account_exists())

    def scheduler(self) -> Service:
        config = self.client_config("system:kube-scheduler")
        port = self.home.port("kube-scheduler")
        command: list[str | Path] = [
            binary("kube-scheduler"),
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            f"--bind-address={_LOOPBACK}",
            f"--secure-port={port}",
            "--leader-elect=false",
            "--kube-api-qps=100",
            "--kube-api-burst=200",
            "--profiling=false",
        ]
        return Service(self.home, "kube-scheduler", command, ready=lambda: self._healthy(port))

    def _api_ready(self) -> bool:
        return _answers(f"{self.server}/readyz", self._tls())

    def _default_account_exists(self) -> bool:
        # Without it the first pod of a test is refused: "error looking up service account default/default".
        return _answers(f"{self.server}/api/v1/namespaces/default/serviceaccounts/default", self._tls())

    def _healthy(self, port: int) -> bool:
        context = ssl.create_default_context()
        # The controllers serve their health with a certificate they made themselves, on the loopback address only.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return _answers(f"https://{_LOOPBACK}:{port}/healthz", context)

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.ca.certificate))
        admin = self.authority.client("kubernetes-admin", ["system:masters"])
        context.load_cert_chain(str(admin.certificate), str(admin.key))
        return context


def _answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as response:
            body: bytes = response.read()
    except (OSError, urllib.error.URLError):
        return False
    if url.endswith("/health"):  # etcd answers 200 with {"health": "false"} while it has no leader
        return bool(json.loads(body).get("health") == "true")
    return True


def _up(home: Home) -> str:
    plane = ControlPlane.of_cluster(home)
    plane.up()
    return f"{plane.server}  KUBECONFIG={plane.kubeconfig}"


def _status(home: Home) -> list[Row]:
    running = {name: find(home, name) for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")}
    return [
        Row(name, "running" if process else "stopped", f"pid {process.pid}" if process else f"last words in {home.logs / name}.log")
        for name, process in running.items()
    ]


STEP = Step("control plane", _up, lambda home: ControlPlane.of_cluster(home).down(), _status)
