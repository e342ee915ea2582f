"""Where a log is: by a place, or by what the job says; and which of command line, job and environment wins."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from spottune_cli.errors import Refusal
from spottune_cli.place import Access, Place, is_uri, of_job, of_uri, open_place
from spottune_contract.layout import S3Location
from spottune_trainer.checkpoint.s3 import refused
from spottune_trainer.checkpoint.store import Denied

LOCATION = S3Location("bucket", "team/eu-1/demo/uid-1")


def job(status: dict[str, Any] | None = None, **checkpoint: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "a", "namespace": "demo", "uid": "uid-1"},
        "spec": {"checkpoint": {"storage": "s3://bucket/team", **checkpoint}},
        "status": {"phase": "Running", "log": {"location": str(LOCATION)}} if status is None else status,
    }


def test_a_place_is_told_from_a_name() -> None:
    assert [is_uri(target) for target in ("s3://bucket/x", "gs://bucket", "job", "s3")] == [True, True, False, False]


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3://", "s3://UPPER/x", "s3://bucket/../x"])
def test_what_is_no_place_is_refused_with_what_one_looks_like(uri: str) -> None:
    with pytest.raises(Refusal) as refusal:
        of_uri(uri)
    assert uri in str(refusal.value)


def test_a_job_tells_location_endpoint_region_and_how_many_commits_are_kept() -> None:
    assert of_job(job(endpoint="http://s3:1", region="eu-west-1", keepLast=7)) == Place(LOCATION, "http://s3:1", "eu-west-1", 7)
    assert of_job(job()) == Place(LOCATION, None, "us-east-1", 3)


@pytest.mark.parametrize("status", [{}, {"phase": "Pending"}, {"log": {}}, {"log": {"headSlot": 3}}])
def test_a_job_that_does_not_tell_yet_is_answered_with_the_place_that_it_will_be(status: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match=r"wait for its first attempt, or give the place itself: s3://bucket/team/.*/demo/uid-1"):
        of_job(job(status))


@pytest.mark.parametrize(
    ("flag", "of_the_job", "environ", "used"),
    [
        ("http://flag", "http://job", {"AWS_ENDPOINT_URL_S3": "http://env"}, "http://flag"),
        (None, "http://job", {"AWS_ENDPOINT_URL_S3": "http://env"}, "http://job"),
        (None, None, {"AWS_ENDPOINT_URL_S3": "http://env", "AWS_ENDPOINT_URL": "http://all"}, "http://env"),
        (None, None, {"AWS_ENDPOINT_URL": "http://all"}, "http://all"),
        (None, None, {}, "AWS"),
    ],
)
def test_the_command_line_comes_before_the_job_and_the_job_before_the_environment(
    flag: str | None, of_the_job: str | None, environ: dict[str, str], used: str
) -> None:
    assert open_place(Place(LOCATION, of_the_job), Access(endpoint=flag), environ).name == f"{LOCATION} at {used}"


def test_the_region_of_the_aws_configuration_is_used_if_nobody_says_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    regions = [
        open_place(place, access)._connection.region
        for place, access in (
            (Place(LOCATION), Access()),
            (Place(LOCATION, None, "eu-west-1"), Access()),
            (Place(LOCATION), Access(region="x")),
        )
    ]
    assert regions == ["eu-north-1", "eu-west-1", "x"]


def test_a_profile_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nope")
    with pytest.raises(Refusal, match=r"nope.*correct AWS_PROFILE") as refusal:
        open_place(Place(LOCATION), Access())
    assert refusal.value.code == 3


def test_without_credentials_the_reader_is_told_how_to_get_some(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    answer = open_place(Place(LOCATION, "http://127.0.0.1:1"), Access()).list("", "")
    assert isinstance(answer, Denied)
    assert answer.message.startswith("no credentials were found: log in (`aws sso login`")


def test_a_bucket_in_another_region_is_answered_with_the_option_to_give() -> None:
    store = open_place(Place(LOCATION, "http://127.0.0.1:1"), Access(region="eu-west-1"))
    answer = ClientError({"Error": {"Code": "PermanentRedirect"}, "ResponseMetadata": {"HTTPStatusCode": 301}}, "ListObjectsV2")  # type: ignore[typeddict-item]
    meant = refused(answer, "s3:ListBucket", LOCATION.bucket, "team/log/", store._connection)
    assert isinstance(meant, Denied)
    assert meant.message == "bucket 'bucket' is not in region eu-west-1: give --region"


@pytest.mark.parametrize("call", ["put", "delete"])
def test_a_reader_cannot_write_or_delete(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    store = open_place(Place(LOCATION, "http://127.0.0.1:1"), Access())
    with pytest.raises(AssertionError, match="is not a reading call"):
        store.put("data/x", b"") if call == "put" else store.delete("data/x")
