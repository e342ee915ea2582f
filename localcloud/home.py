"""Where one local cluster keeps its state, and the few addresses everybody has to agree on."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "SPOTTUNE_LOCALCLOUD_HOME"
"""Names the home; every process we start carries it, so that `down` finds them all, even after a crash of ours."""

DEFAULT_HOME = Path("/var/lib/spottune/localcloud")

BRIDGE = "spottune0"
HOST_ADDRESS = "198.18.0.1"
"""The host on the bridge. 198.18.0.0/15 is the benchmark range (RFC 2544): no real network uses it."""
NODE_NETWORK = "198.18.0.0/16"
POD_NETWORK = "198.19.0.0/17"
SERVICE_NETWORK = "198.19.128.0/17"
APISERVER_PORT = 6443
S3_PORT = 8333
MOTO_PORT = 5000

S3_ACCESS_KEY = "spottune-local"


@dataclass(frozen=True)
class Home:
    """One local cluster's directory. Two homes never share a process, a port or a file."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        """The home that `$SPOTTUNE_LOCALCLOUD_HOME` names, or `/var/lib/spottune/localcloud`."""
        return cls(Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).absolute())

    @property
    def run(self) -> Path:
        """PID files, sockets and locks."""
        return self._directory("run")

    @property
    def logs(self) -> Path:
        """One `NAME.log` per service; kept by `down`."""
        return self._directory("logs")

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self._directory("pki")

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; written by the control plane."""
        return self.root / "kubeconfig"

    def data(self, name: str) -> Path:
        """The data directory of one service, made if it is missing."""
        return self._directory(f"data/{name}")

    def secret(self, name: str) -> str:
        """A random secret of this home, made at its first use and kept in the file `name` (mode 0600)."""
        path = self.root / name
        with self._locked():
            if not path.exists():
                write_private(path, secrets.token_hex(20))
        return path.read_text()

    def port(self, name: str) -> int:
        """A free loopback port for `name`, the same one at every call, so that a restarted service is found again."""
        path = self.run / "ports.json"
        with self._locked():
            ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
            if name not in ports:
                ports[name] = _free_port(set(ports.values()))
                write_private(path, json.dumps(ports, indent=1))
        return ports[name]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Several processes of ours ask at once: the command line, the reconciler, a test.
        with (self.run / "home.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _directory(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True, mode=0o755)
        return path


def write_private(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    """Write a file in one move, so that a reader (or a crash) never meets half of it. Made with `mode` from the start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


def _free_port(taken: set[int]) -> int:
    # Below the kernel's ephemeral range, so that no outgoing connection takes the port between our look and the service's bind.
    for _ in range(1000):
        port = 20000 + secrets.randbelow(12000)
        if port in taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port between 20000 and 32000 on 127.0.0.1: end some of the processes that listen there")
