"""Where a log is and how to read it: from `JOB` or `s3://…`, options, the job and the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spottune_cli.errors import Exit, Refusal
from spottune_contract.layout import S3Location
from spottune_trainer.checkpoint.s3 import Remedies, S3Store, open_reader

FALLBACK_REGION = "us-east-1"
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
READERS = Remedies(
    rights="grant it to yourself, or use other credentials (AWS_PROFILE, --credentials-dir)",
    region="give --region",
    missing="log in (`aws sso login`, AWS_PROFILE, AWS_ACCESS_KEY_ID …), or give --credentials-dir",
    unavailable="your AWS configuration gave no credentials: log in again, or choose another AWS_PROFILE",
    unreadable="in --credentials-dir cannot be read: that folder needs the files accessKeyId and secretAccessKey",
)


@dataclass(frozen=True)
class Access:
    """What the command line says about the way to the bucket; None or empty: not said."""

    endpoint: str | None = None
    region: str | None = None
    credentials_dir: str = ""


@dataclass(frozen=True)
class Place:
    """One job's log, and what the job says of it."""

    location: S3Location
    endpoint: str | None = None
    region: str | None = None
    keep_last: int | None = None
    """Commits whose data are kept; None if only the bucket was named."""


def is_uri(target: str) -> bool:
    """Whether JOB is a place in a bucket rather than the name of a job."""
    return "://" in target


def of_uri(uri: str) -> Place:
    """Raises `Refusal` for what is no `s3://BUCKET/…`."""
    try:
        return Place(S3Location.parse(uri))
    except ValueError as error:
        raise Refusal(Exit.USAGE, str(error)) from None


def of_job(job: Mapping[str, Any]) -> Place:
    """The place that the operator wrote into the job's status. Raises `Refusal` if it has not yet."""
    name, status = job["metadata"]["name"], job.get("status") or {}
    location = (status.get("log") or {}).get("location", "")
    checkpoint = (job.get("spec") or {}).get("checkpoint") or {}
    if not location:
        storage = str(checkpoint.get("storage", "s3://BUCKET/PREFIX")).rstrip("/")
        uid, namespace = job["metadata"].get("uid", "<uid>"), job["metadata"].get("namespace", "<namespace>")
        raise Refusal(
            Exit.USAGE,
            f"the status of job {name!r} (phase {status.get('phase', 'Pending')}) does not tell yet where its log is: wait for its first attempt, "
            f"or give the place itself: {storage}/<clusterName of the chart>/{namespace}/{uid}",
        )
    return Place(of_uri(location).location, checkpoint.get("endpoint"), checkpoint.get("region", FALLBACK_REGION), _keep_last(checkpoint))


def open_place(place: Place, access: Access, environ: Mapping[str, str] = os.environ) -> S3Store:
    """A store that can only read. What the command line says comes first, then the job, then the environment."""
    import boto3
    from botocore.exceptions import BotoCoreError

    endpoint = access.endpoint or place.endpoint or next((environ[name] for name in ENDPOINT_VARIABLES if environ.get(name)), None)
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise Refusal(Exit.USAGE, f"{endpoint!r} is no endpoint: write https://HOST[:PORT]")
    try:
        region = access.region or place.region or boto3.session.Session().region_name or FALLBACK_REGION
    except BotoCoreError as error:
        raise Refusal(Exit.UNREACHABLE, f"the AWS configuration cannot be used ({error}): correct AWS_PROFILE or ~/.aws/config") from None
    return open_reader(place.location, endpoint=endpoint, region=region, credentials_dir=access.credentials_dir, remedies=READERS)


def _keep_last(checkpoint: Mapping[str, Any]) -> int:
    from spottune_contract.runspec import CheckpointSpec

    return int(checkpoint.get("keepLast", CheckpointSpec.model_fields["keep_last"].default))
