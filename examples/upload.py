"""Put files into a bucket of an S3-compatible store.

`python -m examples.upload ENDPOINT BUCKET KEY=FILE…` with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_DIGEST = "sha256"


def place(
    endpoint: str, access_key: str, secret_key: str, bucket: str, files: Mapping[str, Path], *, region: str = "us-east-1"
) -> list[str]:
    """Upload `files` (key to file) and return the keys that were written; what is there already with the same content is left alone.

    The bucket is created if it is missing. Raises botocore's `ClientError` if the store refuses.
    """
    client: S3Client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=region,
        config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "max_attempts": 5}),
    )
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        client.create_bucket(Bucket=bucket)
    written = []
    for key, path in files.items():
        digest = _sha256(path)
        if _stored_digest(client, bucket, key) != digest:
            with path.open("rb") as body:
                client.put_object(Bucket=bucket, Key=key, Body=body, Metadata={_DIGEST: digest})
            written.append(key)
    return written


def _stored_digest(client: S3Client, bucket: str, key: str) -> str | None:
    try:
        return str(client.head_object(Bucket=bucket, Key=key)["Metadata"].get(_DIGEST))
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return None
        raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    pairs = dict(argument.split("=", 1) for argument in sys.argv[3:])
    sources = {key: Path(file) for key, file in pairs.items()}
    for key in place(sys.argv[1], os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], sys.argv[2], sources):
        print(f"s3://{sys.argv[2]}/{key}")
