"""What S3's error answers mean: a table."""

from __future__ import annotations

import hashlib

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError, CredentialRetrievalError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from spottune_trainer.checkpoint.s3 import PIECE_BYTES, S3Connection, _send_pieces, as_file, lost, refused
from spottune_trainer.checkpoint.store import Denied, Unavailable

CONNECTION = S3Connection(endpoint="http://127.0.0.1:1", region="eu-west-1")


def error(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "?"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("code", "status", "reason", "permanent"),
    [
        ("AccessDenied", 403, "AccessDenied", False),
        ("InvalidAccessKeyId", 403, "AccessDenied", False),
        ("SignatureDoesNotMatch", 403, "AccessDenied", False),
        ("ExpiredToken", 400, "StorageDenied", False),
        ("KMS.DisabledException", 400, "StorageDenied", False),
        ("RequestTimeTooSkewed", 403, "ClockSkewed", False),
        ("NoSuchBucket", 404, "BucketMissing", True),
        ("PermanentRedirect", 301, "WrongRegion", True),
        ("AuthorizationHeaderMalformed", 400, "WrongRegion", True),
    ],
)
def test_a_refusal_has_a_reason_and_says_whether_it_may_pass(code: str, status: int, reason: str, permanent: bool) -> None:
    meant = refused(error(code, status), "s3:PutObject", "bucket", "runs/uid/log/0000000000.json", CONNECTION)
    assert isinstance(meant, Denied)
    assert (meant.reason, meant.permanent) == (reason, permanent)


def test_a_denial_names_the_action_the_key_prefix_and_the_remedy() -> None:
    meant = refused(error("AccessDenied", 403), "s3:PutObject", "bucket", "runs/uid/log/0000000000.json", CONNECTION)
    assert isinstance(meant, Denied)
    for part in ("s3:PutObject", "s3://bucket/runs/uid/log/*", "grant"):
        assert part in meant.message


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("SlowDown", 503),
        ("InternalError", 500),
        ("ServiceUnavailable", 503),
        ("RequestTimeout", 400),
        ("ConditionalRequestConflict", 409),
        ("", 502),
        ("Throttling", 400),
    ],
)
def test_what_passes_by_itself_is_tried_again(code: str, status: int) -> None:
    assert isinstance(refused(error(code, status), "s3:PutObject", "bucket", "key", CONNECTION), Unavailable)


def test_lost_connections_are_tried_again_and_never_show_a_url() -> None:
    url = "http://host/bucket/key?X-Amz-Signature=canary"
    for failure in (EndpointConnectionError(endpoint_url=url), ReadTimeoutError(endpoint_url=url), OSError("canary")):
        meant = lost(failure)
        assert isinstance(meant, Unavailable)
        assert "canary" not in meant.detail


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (NoCredentialsError(), "CredentialsMissing"),
        (CredentialRetrievalError(provider="container-role", error_msg="canary"), "CredentialsUnavailable"),
        (FileNotFoundError(2, "No such file", "/run/secrets/accessKeyId"), "CredentialsMissing"),
    ],
)
def test_missing_credentials_name_the_remedy(failure: Exception, reason: str) -> None:
    meant = lost(failure)
    assert isinstance(meant, Denied)
    assert meant.reason == reason
    assert "canary" not in meant.message


def test_memory_is_sent_without_copying_and_can_be_read_twice() -> None:
    file = as_file(memoryview(b"0123456789")[2:8])
    assert file.read() == b"234567"
    assert file.seek(0) == 0
    assert bytes(file.read(2)) + bytes(file.read()) == b"234567"
    assert file.seek(0, 2) == 6


def test_a_signed_request_tells_the_hash_of_its_body_and_sends_slices_of_the_memory_itself() -> None:
    body = bytes(range(256)) * (3 * PIECE_BYTES // 512)
    view = as_file(body)
    request = AWSRequest("PUT", "http://127.0.0.1:1/bucket/key", {}, view)
    request.context["has_streaming_input"] = True
    S3SigV4Auth(Credentials("access", "secret"), "s3", "eu-west-1").add_auth(request)
    prepared = request.prepare()
    _send_pieces(prepared)
    pieces = list(prepared.body)
    assert view.sha256 == hashlib.sha256(body).hexdigest()  # type: ignore[attr-defined]
    assert [len(piece) for piece in pieces] == [PIECE_BYTES, PIECE_BYTES // 2]
    assert all(piece.obj is body for piece in pieces)
