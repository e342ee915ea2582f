"""One job's prefix in a bucket of a real S3 server, and processes of its attempts. Only for tests."""

from __future__ import annotations

import hashlib
import itertools
import random
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from spottune_contract.layout import S3Location
from spottune_trainer.checkpoint import CheckpointLog, Restored, open_store
from spottune_trainer.checkpoint.transfer import Files
from tests.storage.fault_proxy import Passing

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CLAIM: dict[str, Any] = {"pod_uid": "uid", "node": "node", "spec_hash": "", "image_digest": "", "compute_class": "cpu", "versions": {}}


class Content(bytes):
    """Bytes that a failed comparison shows by their hash: a difference of 120 KB, worked out letter by letter, takes minutes."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes, SHA-256 {hashlib.sha256(self).hexdigest()[:12]}>"


def state(step: int) -> dict[str, bytes]:
    """The one right state after `step` steps, 120 KB."""
    chance = random.Random(step)
    return {
        "adapter.safetensors": Content(chance.randbytes(40_000)),
        "optimizer.safetensors": Content(chance.randbytes(80_000)),
        "rng.json": b'{"step":%d}' % step,
        "cursor.json": b'{"cursor":%d}' % step,
        "trainer.json": b'{"trainer":%d}' % step,
    }


def contents(files: Files) -> dict[str, bytes]:
    """What was restored, to be compared with a `state`."""
    return {name: Content(content) for name, content in files.items()}


class Server(Protocol):
    """What a test needs to know of an S3 server."""

    @property
    def endpoint(self) -> str: ...

    @property
    def access_key(self) -> str: ...

    @property
    def secret_key(self) -> str: ...

    def client(self, **options: Any) -> S3Client: ...


class Job:
    """One job's prefix in a fresh bucket, and processes of its attempts."""

    def __init__(self, store: Server, bucket: str, credentials: Path) -> None:
        self.store = store
        self.location = S3Location(bucket, f"runs/{secrets.token_hex(4)}")
        self.credentials = credentials
        self.client = store.client()

    def log(self, epoch: int, *, endpoint: str | None = None, min_slot: int = 0, keep_last: int = 3) -> CheckpointLog:
        store = open_store(
            self.location, endpoint=endpoint or self.store.endpoint, region="us-east-1", credentials_dir=str(self.credentials)
        )
        return CheckpointLog(store, epoch=epoch, min_slot=min_slot, keep_last=keep_last)

    def owner(self, epoch: int, *, endpoint: str | None = None, keep_last: int = 3) -> tuple[CheckpointLog, Restored | None]:
        """A process of this epoch that has claimed and resumed."""
        log = self.log(epoch, endpoint=endpoint, keep_last=keep_last)
        log.claim(**CLAIM)
        return log, log.resume(lambda commit, files: None)

    def restored(self, epoch: int) -> tuple[int, dict[str, bytes]]:
        """Step and files that an attempt of this epoch resumes from."""
        _, restored = self.owner(epoch)
        assert restored is not None
        return restored.commit.step, contents(restored.files)

    def keys(self, prefix: str = "") -> list[str]:
        root = self.location.key("")
        page = self.client.list_objects_v2(Bucket=self.location.bucket, Prefix=root + prefix)
        return [item["Key"].removeprefix(root) for item in page.get("Contents", ())]

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.location.bucket, Key=self.location.key(key))["Body"].read()

    def write(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.location.bucket, Key=self.location.key(key), Body=body)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.location.bucket, Key=self.location.key(key))


def commit(log: CheckpointLog, *steps: int) -> None:
    for step in steps:
        log.commit(state(step), step=step, samples_seen=step, reason="interval")


def write_credentials(folder: Path, access_key: str, secret_key: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "accessKeyId").write_text(access_key + "\n")
    (folder / "secretAccessKey").write_text(secret_key + "\n")
    return folder


def first(count: int, wanted: Callable[[Passing], bool]) -> Callable[[Passing], bool]:
    """True for the first `count` requests that are wanted."""
    left = itertools.count(count, -1)
    return lambda request: wanted(request) and next(left) > 0


def is_record_put(request: Passing) -> bool:
    return request.method == "PUT" and "/log/" in request.key


def is_data_put(request: Passing) -> bool:
    return request.method == "PUT" and "/data/" in request.key
