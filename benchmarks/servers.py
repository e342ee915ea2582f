"""Servers that benchmarks run against, each in a process of its own, so that its CPU time is not the client's."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcloud import process
from localcloud.home import Home
from localcloud.objectstore import REGION, ObjectStore
from spottune_contract.layout import S3Location
from spottune_trainer.checkpoint.s3 import S3Store, open_store


@contextmanager
def seaweedfs() -> Iterator[ObjectStore]:
    """A fresh SeaweedFS on a free port; gone with its data at the end."""
    home = Home(Path(tempfile.mkdtemp(prefix="spottune-bench-")))
    try:
        store = ObjectStore(home)
        store.up()
        yield store
    finally:
        process.stop_all(home, timeout=1)
        shutil.rmtree(home.root, ignore_errors=True)


def job_store(server: ObjectStore) -> S3Store:
    """The root of a new job in a new bucket, through the trainer's own client."""
    bucket = f"bench-{secrets.token_hex(6)}"
    server.create_bucket(bucket)
    folder = server.home.data("credentials")
    (folder / "accessKeyId").write_text(server.access_key)
    (folder / "secretAccessKey").write_text(server.secret_key)
    return open_store(S3Location(bucket, "runs/job"), endpoint=server.endpoint, region=REGION, credentials_dir=str(folder))
