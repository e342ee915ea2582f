"""Fixtures of the tests against real S3 servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localcloud.objectstore import ObjectStore
from tests.storage.fault_proxy import FaultProxy, fault_proxy
from tests.storage.job import Job, write_credentials


@pytest.fixture
def job(object_store: ObjectStore, bucket: str, tmp_path: Path) -> Job:
    """A job on SeaweedFS."""
    return Job(object_store, bucket, write_credentials(tmp_path / "credentials", object_store.access_key, object_store.secret_key))


@pytest.fixture
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    """Our fault proxy before SeaweedFS."""
    with fault_proxy(object_store) as proxy:
        yield proxy
