"""What the client really sends, seen by a real server."""

from __future__ import annotations

import hashlib
import random
import secrets
from pathlib import Path

import pytest

from localcloud.objectstore import ObjectStore
from spottune_contract.layout import S3Location
from spottune_trainer.checkpoint import open_store
from spottune_trainer.checkpoint.s3 import PIECE_BYTES
from spottune_trainer.checkpoint.store import AlreadyExists, Created, Found

pytestmark = pytest.mark.storage


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 3 * PIECE_BYTES + 1])
def test_a_body_of_any_size_arrives_whole_with_the_hash_that_signed_it(
    object_store: ObjectStore, bucket: str, tmp_path: Path, size: int
) -> None:
    (tmp_path / "accessKeyId").write_text(object_store.access_key)
    (tmp_path / "secretAccessKey").write_text(object_store.secret_key)
    location = S3Location(bucket, f"runs/{secrets.token_hex(4)}")
    store = open_store(location, endpoint=object_store.endpoint, region="us-east-1", credentials_dir=str(tmp_path))
    body = random.Random(size).randbytes(size)
    created = store.put("data/object", memoryview(body))
    assert isinstance(created, Created)
    assert created.sha256 == hashlib.sha256(body).hexdigest()
    assert store.get("data/object", size) == Found(body)
    assert store.put("data/object", b"another") == AlreadyExists()
    assert store.get("data/object", size) == Found(body)
