"""Upload of one state: the trainer's own steps against boto3's `upload_file`, to a server that is no limit and to SeaweedFS."""

from __future__ import annotations

import io
import resource
import secrets
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from benchmarks.checkpoint import sink
from benchmarks.report import Figure, interval, median_ratio, paired
from benchmarks.servers import seaweedfs
from localcloud.objectstore import REGION
from spottune_contract.layout import MAX_OBJECT_BYTES, S3Location
from spottune_trainer.checkpoint.drive import CONNECTIONS, Driver, Patience
from spottune_trainer.checkpoint.lineage import Writer
from spottune_trainer.checkpoint.s3 import S3Store, open_store
from spottune_trainer.checkpoint.transfer import store_files

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

STATE_BYTES = 500_000_000
SMALL_FILES = {"history.safetensors": 80_000, "rng.safetensors": 8_000, "cursor.json": 100, "trainer.json": 400}
"""Bytes, as after a thousand steps."""
PATIENCE = Patience(unavailable=120.0, denied=0.0)


@dataclass(frozen=True)
class Server:
    """Where to upload to, with keys that it accepts."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str

    def client(self) -> S3Client:
        """As anybody would make it: boto3's defaults, but for the address."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )

    def store(self, folder: Path) -> S3Store:
        """As the trainer makes it. `folder` gets the credentials."""
        (folder / "accessKeyId").write_text(self.access_key)
        (folder / "secretAccessKey").write_text(self.secret_key)
        return open_store(S3Location(self.bucket, "runs/job"), endpoint=self.endpoint, region=REGION, credentials_dir=str(folder))


@dataclass(frozen=True)
class Cost:
    """Of one upload, in seconds; CPU is user and system time of this process."""

    wall: float
    cpu: float


@contextmanager
def sink_server(rate: float = 0.0) -> Iterator[Server]:
    """A sink that accepts any key; `rate`: bytes per second of each connection."""
    with sink.running(rate) as port:
        yield Server(f"http://127.0.0.1:{port}", "bench", "bench-secret", "bench")


def state(size: int) -> dict[str, memoryview]:
    """An adapter, an optimizer of twice its size and the small files that every state has, `size` bytes together."""
    content = memoryview(secrets.token_bytes(1 << 20) * (size // (1 << 20) + 1))[:size]
    small, rest = content[: sum(SMALL_FILES.values())], content[sum(SMALL_FILES.values()) :]
    files = {"adapter.safetensors": rest[: len(rest) // 3], "optimizer.safetensors": rest[len(rest) // 3 :]}
    for name, length in SMALL_FILES.items():
        files[name], small = small[:length], small[length:]
    return files


def measure(quick: bool) -> Sequence[Figure]:
    """Pairs of uploads of 500 MB (100 MB if `quick`) in ABBA order."""
    size = STATE_BYTES // 5 if quick else STATE_BYTES
    files, megabytes = state(size), size / 1e6
    with sink_server() as server:
        ceiling = megabytes / min(_raw(server, files) for _ in range(3))
        figures = _compare(server, files, "a server that is no limit", 2 if quick else 6, goal=1.5, cpu_goal=0.5)
    with seaweedfs() as store:
        bucket = f"bench-{secrets.token_hex(6)}"
        store.create_bucket(bucket)
        real = Server(store.endpoint, store.access_key, store.secret_key, bucket)
        figures += _compare(real, files, "SeaweedFS", 2 if quick else 3, goal=1.2, cpu_goal=None)
    figures.append(
        Figure(
            "ceiling of the server that is no limit",
            ceiling,
            "MB/s",
            detail=f"the same bytes over {CONNECTIONS} bare sockets, neither hashed nor signed",
        )
    )
    return figures


def _compare(server: Server, files: dict[str, memoryview], where: str, pairs: int, *, goal: float, cpu_goal: float | None) -> list[Figure]:
    size = sum(map(len, files.values()))
    with tempfile.TemporaryDirectory() as folder:
        ours = _ours(server, files, Path(folder))
        candidates = _boto(server, files, Path(folder))
        for upload in (ours, *candidates.values()):
            upload()
        name, theirs = min(candidates.items(), key=lambda item: item[1]().wall)
        ours_costs: list[Cost] = []
        boto_costs: list[Cost] = []
        paired(_kept(ours, ours_costs), _kept(theirs, boto_costs), pairs)
    speed = median_ratio([(theirs.wall, ours.wall) for ours, theirs in zip(ours_costs, boto_costs, strict=True)])
    cpu = median_ratio([(ours.cpu, theirs.cpu) for ours, theirs in zip(ours_costs, boto_costs, strict=True)])
    low, high = interval([theirs.wall / ours.wall for ours, theirs in zip(ours_costs, boto_costs, strict=True)])
    rate, boto_rate = (size / 1e6 / statistics.median(cost.wall for cost in costs) for costs in (ours_costs, boto_costs))
    seconds, boto_seconds = (statistics.median(cost.cpu for cost in costs) for costs in (ours_costs, boto_costs))
    return [
        Figure(
            f"upload of {size / 1e6:.0f} MB to {where}, speed over boto3's",
            speed,
            "×",
            goal=goal,
            at_least=True,
            detail=f"{rate:.0f} MB/s; boto3 {name}: {boto_rate:.0f} MB/s; quartiles {low:.2f} to {high:.2f}",
        ),
        Figure(
            f"upload of {size / 1e6:.0f} MB to {where}, CPU time over boto3's",
            cpu,
            "×",
            goal=cpu_goal,
            detail=f"{seconds:.2f} s; boto3: {boto_seconds:.2f} s",
        ),
    ]


def _kept(upload: Callable[[], Cost], costs: list[Cost]) -> Callable[[], float]:
    def measured() -> float:
        costs.append(upload())
        return costs[-1].wall

    return measured


def _cost(action: Callable[[], object]) -> Cost:
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    action()
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _ours(server: Server, files: dict[str, memoryview], folder: Path) -> Callable[[], Cost]:
    store = server.store(folder)
    driver = Driver(store)

    def upload() -> Cost:
        save = secrets.token_hex(8)

        def stored() -> None:
            uploaded = driver.run(store_files(files, Writer(1, "bench0001"), 1, save, MAX_OBJECT_BYTES), patience=PATIENCE)
            keys.extend(file.key for file in uploaded.files)

        keys: list[str] = []
        cost = _cost(stored)
        for key in keys:
            store.delete(key)
        return cost

    return upload


def _boto(server: Server, files: dict[str, memoryview], folder: Path) -> dict[str, Callable[[], Cost]]:
    """The ways boto3 has to send a state: from a file in the page cache, and from memory."""
    client = server.client()
    whole = b"".join(files.values())
    path = folder / "state.bin"
    path.write_bytes(whole)

    def run(send: Callable[[], None]) -> Cost:
        cost = _cost(send)
        client.delete_object(Bucket=server.bucket, Key="boto/state.bin")
        return cost

    return {
        "upload_file": lambda: run(lambda: client.upload_file(str(path), server.bucket, "boto/state.bin")),
        "upload_fileobj": lambda: run(lambda: client.upload_fileobj(io.BytesIO(whole), server.bucket, "boto/state.bin")),
    }


def _raw(server: Server, files: dict[str, memoryview]) -> float:
    """Seconds for the same bytes on bare sockets: what the server and the machine can take."""
    host, port = server.endpoint.removeprefix("http://").split(":")
    size = sum(map(len, files.values())) // CONNECTIONS
    share = bytes(size)

    def send(number: int) -> None:
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(f"PUT /bench/raw/{number} HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode())
            sock.sendall(share)
            assert b" 200 " in sock.recv(4096)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(CONNECTIONS)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - started
