"""The log on moto's S3, which accepts a wrong checksum without a word: our own hashes must be enough."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from localcloud.moto_server import Moto
from spottune_trainer.checkpoint import Fenced
from tests.fixtures.homes import ephemeral_home
from tests.storage.job import Job, commit, contents, state, write_credentials

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.storage


@dataclass(frozen=True)
class MotoServer:
    endpoint: str
    access_key: str = "moto"
    secret_key: str = "moto"

    def client(self, **options: Any) -> S3Client:
        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key, "region_name": "us-east-1"}
        client: S3Client = boto3.client("s3", **{"endpoint_url": self.endpoint} | keys | options)
        return client


@pytest.fixture(scope="module")
def server() -> Iterator[MotoServer]:
    with ephemeral_home("moto") as home:
        moto = Moto(home)
        moto.up()
        yield MotoServer(moto.endpoint)


@pytest.fixture
def job(server: MotoServer, tmp_path: Path) -> Job:
    bucket = f"test-{random.SystemRandom().getrandbits(48):012x}"
    server.client().create_bucket(Bucket=bucket)
    return Job(server, bucket, write_credentials(tmp_path / "keys", server.access_key, server.secret_key))


def test_the_whole_way_works_on_another_server(job: Job) -> None:
    job.log(1).probe()
    old, _ = job.owner(1, keep_last=2)
    commit(old, 10, 20, 30)
    assert old.retain() == len(state(10))
    new, restored = job.owner(2)
    assert restored is not None
    assert contents(restored.files) == state(30)
    with pytest.raises(Fenced):
        commit(old, 40)
    commit(new, 50)
    assert job.restored(3) == (50, state(50))


def test_the_server_stores_another_body_than_its_checksum_says(job: Job) -> None:
    # What the next test is worth: this server does not notice.
    other = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    job.client.put_object(Bucket=job.location.bucket, Key="k", Body=b"damaged on the way", ChecksumSHA256=other)
    assert job.client.get_object(Bucket=job.location.bucket, Key="k")["Body"].read() == b"damaged on the way"


@pytest.mark.parametrize("name", sorted(state(0)))
def test_f22_a_body_that_the_server_took_with_a_wrong_checksum_is_seen_before_anything_is_loaded(job: Job, name: str) -> None:
    log, _ = job.owner(1)
    commit(log, 10, 20)
    key = next(key for key in job.keys("data/") if "/s0000020-" in key and key.endswith(name))
    body = bytearray(job.read(key))
    body[len(body) // 2] ^= 1
    job.client.put_object(
        Bucket=job.location.bucket,
        Key=job.location.key(key),
        Body=bytes(body),
        ChecksumSHA256="AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    )
    _, restored = job.owner(2)
    assert restored is not None
    assert (restored.commit.step, contents(restored.files)) == (10, state(10))
    assert [(rejected.slot, key in rejected.why) for rejected in restored.rejected] == [(3, True)]
