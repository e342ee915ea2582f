"""The object store of the local cluster keeps the promises that the checkpoint log is built on."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from localcloud.home import Home
from localcloud.objectstore import Identity, ObjectStore
from localcloud.toxiproxy import Proxy

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.storage

ONE_TRY = Config(retries={"max_attempts": 0}, max_pool_connections=16, connect_timeout=2, read_timeout=2)


def outcome(client: S3Client, bucket: str, key: str, body: bytes = b"x", **options: Any) -> int:
    """The HTTP status of one PUT."""
    try:
        return client.put_object(Bucket=bucket, Key=key, Body=body, **options)["ResponseMetadata"]["HTTPStatusCode"]
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def test_a_key_is_created_once(object_store: ObjectStore, bucket: str) -> None:
    client = object_store.client(config=ONE_TRY)
    assert outcome(client, bucket, "k", b"first", IfNoneMatch="*") == 200
    assert outcome(client, bucket, "k", b"second", IfNoneMatch="*") == 412
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"first"


def test_of_racing_creations_exactly_one_wins_and_it_is_the_one_that_is_read(object_store: ObjectStore, bucket: str) -> None:
    # Losers wait for the store's lock: a second or more each.
    client = object_store.client(config=ONE_TRY.merge(Config(read_timeout=20)))
    with ThreadPoolExecutor(3) as pool:
        for race in range(8):
            bodies = [f"{race}-{writer}".encode() for writer in range(3)]
            codes = list(pool.map(lambda body, key=f"r{race}": outcome(client, bucket, key, body, IfNoneMatch="*"), bodies))
            assert Counter(codes) == {200: 1, 412: 2}
            assert client.get_object(Bucket=bucket, Key=f"r{race}")["Body"].read() == bodies[codes.index(200)]


def test_a_deleted_key_can_be_created_again(object_store: ObjectStore, bucket: str) -> None:
    client = object_store.client(config=ONE_TRY)
    assert outcome(client, bucket, "k", IfNoneMatch="*") == 200
    client.delete_object(Bucket=bucket, Key="k")
    assert outcome(client, bucket, "k", IfNoneMatch="*") == 200


def test_a_bucket_is_never_made_by_a_write(object_store: ObjectStore) -> None:
    assert outcome(object_store.client(config=ONE_TRY), "no-such-bucket", "k") == 404


def test_a_wrong_key_is_refused(object_store: ObjectStore, bucket: str) -> None:
    assert outcome(object_store.client(config=ONE_TRY, aws_secret_access_key="guessed"), bucket, "k") == 403


def test_rights_are_narrowed_to_a_prefix_taken_away_and_rotated_while_it_runs(object_store: ObjectStore, bucket: str) -> None:
    def user(secret: str) -> S3Client:
        return object_store.client(aws_access_key_id=bucket, aws_secret_access_key=secret, config=ONE_TRY)

    def eventually(expected: int, secret: str, key: str) -> None:
        deadline = time.monotonic() + 10
        while (code := outcome(user(secret), bucket, key)) != expected:
            assert time.monotonic() < deadline, f"{code} instead of {expected}"

    object_store.admit(Identity(bucket, bucket, "one", (f"Write:{bucket}/mine/*",)))
    eventually(200, "one", "mine/k")
    eventually(403, "one", "theirs/k")
    object_store.admit(Identity(bucket, bucket, "one", ()))
    eventually(403, "one", "mine/k")
    object_store.admit(Identity(bucket, bucket, "two", (f"Write:{bucket}/mine/*",)))
    eventually(200, "two", "mine/k")
    eventually(403, "one", "mine/k")


def test_what_was_acknowledged_survives_a_kill(home: Home) -> None:
    store = ObjectStore(home)
    store.up()
    store.create_bucket("kept")
    store.client().put_object(Bucket="kept", Key="k", Body=b"x" * 100_000)
    process = store.service().running()
    assert process is not None
    process.signal(9)
    store.up()
    assert store.client().get_object(Bucket="kept", Key="k")["Body"].read() == b"x" * 100_000


def test_two_stores_run_side_by_side(home: Home, object_store: ObjectStore) -> None:
    other = ObjectStore(home)
    other.up()
    assert other.client().list_buckets()["Buckets"] == []
    assert other.endpoint != object_store.endpoint
    assert other.secret_key != object_store.secret_key


def test_a_cut_connection_and_a_slow_one_are_seen_by_the_client(object_store: ObjectStore, bucket: str, storage_proxy: Proxy) -> None:
    client = object_store.client(endpoint_url=storage_proxy.url, config=ONE_TRY)
    assert outcome(client, bucket, "k") == 200
    storage_proxy.add("timeout", timeout=0)
    with pytest.raises((ReadTimeoutError, ConnectionClosedError)):
        outcome(client, bucket, "k")
    storage_proxy.cut()
    with pytest.raises((EndpointConnectionError, ConnectionClosedError)):
        outcome(client, bucket, "k")
    storage_proxy.heal()
    assert outcome(client, bucket, "k") == 200
