"""S3 behind the `Store` port: one boto3 client, explicit timeouts, no retries of its own, and only the calls of an allow-list."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)
from urllib3.exceptions import HTTPError as UrllibError

from spottune_contract.layout import S3Location
from spottune_trainer.checkpoint.store import (
    AlreadyExists,
    Body,
    Created,
    Deleted,
    DeleteResult,
    Denied,
    Exists,
    Found,
    GetResult,
    HeadResult,
    Listed,
    ListResult,
    NotFound,
    PutResult,
    Unavailable,
    Unknown,
    check_deletable,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_SECONDS, READ_SECONDS = 5, 20
PIECE_BYTES = 256 << 10
"""Given to the socket at once. Each piece has `CONNECT_SECONDS` (on a new connection) to leave: a larger one would give up slow links."""
READING_CALLS = frozenset({"GetObject", "HeadObject", "ListObjectsV2"})
ALLOWED_CALLS = READING_CALLS | {"PutObject", "DeleteObject"}

_WRONG_REGION = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"})
_PASSING = frozenset({"RequestTimeout", "SlowDown", "TooManyRequests", "Throttling", "ThrottlingException", "RequestLimitExceeded", "429"})
_CONFLICT = frozenset({"ConditionalRequestConflict", "OperationAborted", "409"})
_NETWORK_ERRORS = (BotoCoreError, UrllibError, OSError)
"""Everything that a connection can do; urllib3's own errors come up while a body is read."""


class _View(io.RawIOBase):
    """A file over memory that is not copied, not even by `read`: a part may be 64 MiB and eight are sent at once."""

    def __init__(self, body: Body) -> None:
        self._view = memoryview(body).cast("B")
        self._place = 0
        self.sha256 = ""
        """Of the content, once the request is signed: the signature needs it, so that nobody has to hash the same bytes again."""

    def __len__(self) -> int:
        return len(self._view)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self._view)}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int | None = -1, /) -> bytes:
        end = len(self._view) if size is None or size < 0 else self._place + size
        piece = self._view[self._place : end]
        self._place += len(piece)
        return cast(bytes, piece)

    def pieces(self) -> Iterator[memoryview]:
        """All of the content."""
        for start in range(0, len(self._view), PIECE_BYTES):
            yield self._view[start : start + PIECE_BYTES]


def as_file(body: Body) -> IO[bytes]:
    """Memory as a file that boto3 can sign and send."""
    return cast(IO[bytes], _View(body))


@dataclass(frozen=True)
class Remedies:
    """What to do about a refusal depends on who asks: the second half of a message."""

    rights: str = "grant it to the trainer's role, or correct the credentials secret"
    region: str = "set checkpoint.region"
    missing: str = "give the pod's service account a role, or set checkpoint.credentialsSecret"
    unavailable: str = "the pod's role gave no credentials: check EKS Pod Identity or the role annotation of its service account"
    unreadable: str = "of the credentials secret cannot be read: it needs the keys accessKeyId and secretAccessKey"


TRAINERS = Remedies()


def _send_pieces(request: Any, **_: object) -> None:
    """The signed request, just before it is sent: slices of the memory instead of reads of 16 KiB, each a copy and a fight for the GIL."""
    view = request.body
    if isinstance(view, _View):
        stated = request.headers.get("X-Amz-Content-SHA256", "")
        stated = stated.decode() if isinstance(stated, bytes) else stated
        view.sha256 = stated if re.fullmatch("[0-9a-f]{64}", stated) else ""
        request.body = view.pieces()


class S3Connection:
    """A client that follows rotated credentials and is replaced on demand. Safe to use from several threads.

    `strict`: only the calls of the checkpoint protocol, so that no change elsewhere can make it overwrite anything.
    `read_only`: nothing but reading calls leave it.
    """

    def __init__(
        self,
        *,
        endpoint: str | None,
        region: str,
        credentials_dir: str = "",
        strict: bool = True,
        read_only: bool = False,
        remedies: Remedies = TRAINERS,
    ) -> None:
        self.endpoint = endpoint
        self.region = region
        self.remedies = remedies
        self._credentials_dir = credentials_dir
        self._guard = _only_reading_calls if read_only else _only_protocol_calls if strict else _only_allowed_calls
        self._lock = threading.Lock()
        self._session: boto3.session.Session | None = None
        self._client: S3Client | None = None
        self._credentials_state: object = None

    def client(self) -> S3Client:
        """The current client. Raises `OSError` if the credential files cannot be read, `BotoCoreError` for a bad configuration."""
        with self._lock:
            state = self._files_state()
            if self._client is None or state != self._credentials_state:
                self._client = self._connect()
                self._credentials_state = state
            return self._client

    def reconnect(self, *, renew: bool = False) -> None:
        """Open new connections from the next request on; `renew`: look for credentials again, too."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            if renew:
                self._session, self._client = None, None

    def _files_state(self) -> object:
        if not self._credentials_dir:
            return None
        stats = [os.stat(path) for path in self._credential_files()]
        return [(s.st_ino, s.st_mtime_ns, s.st_size) for s in stats]

    def _credential_files(self) -> tuple[Path, Path]:
        folder = Path(self._credentials_dir)
        return folder / "accessKeyId", folder / "secretAccessKey"

    def _connect(self) -> S3Client:
        access, secret = None, None
        if self._credentials_dir:
            access, secret = (path.read_text().strip() for path in self._credential_files())
        self._session = self._session or boto3.session.Session(region_name=self.region)
        client: S3Client = self._session.client(
            "s3",
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            endpoint_url=self.endpoint,
            config=Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=16,
                tcp_keepalive=True,
                # The signature's hash is the one that the COMMIT records; the store compares it with what arrives.
                s3={"addressing_style": "path" if self.endpoint else "auto", "payload_signing_enabled": True},
                # We hash ourselves; trailing checksums are not understood by every store.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        client.meta.events.register("before-call.s3", self._guard)
        client.meta.events.register("before-send.s3", _send_pieces)
        return client


def _only_allowed_calls(model: Any, **_: object) -> None:
    assert model.name in ALLOWED_CALLS, f"{model.name} is not a call that the trainer may make"


def _only_reading_calls(model: Any, **_: object) -> None:
    assert model.name in READING_CALLS, f"{model.name} is not a reading call"


def _only_protocol_calls(model: Any, params: dict[str, Any], **_: object) -> None:
    _only_allowed_calls(model)
    assert model.name != "PutObject" or params["headers"].get("If-None-Match") == "*", "the protocol never overwrites"


class S3Store:
    """One job's root in a bucket."""

    def __init__(self, location: S3Location, connection: S3Connection) -> None:
        self._location = location
        self._connection = connection

    @property
    def name(self) -> str:
        return f"{self._location} at {self._connection.endpoint or 'AWS'}"

    def put(self, key: str, body: Body) -> PutResult:
        view = _View(body)
        try:
            self._connection.client().put_object(
                Bucket=self._location.bucket,
                Key=self._location.key(key),
                Body=cast(IO[bytes], view),
                IfNoneMatch="*",
                ContentLength=len(view),
            )
        except ClientError as error:
            if _status(error) == 412 or _code(error) == "PreconditionFailed":
                return AlreadyExists()
            if _status(error) == 501 or _code(error) == "NotImplemented":
                return Denied(
                    "ConditionalWritesUnsupported",
                    "it does not implement PUT with If-None-Match: *; use a store that honours conditional writes",
                    permanent=True,
                )
            refused = self._refused(error, "s3:PutObject", key)
            return refused if isinstance(refused, Denied) else Unknown(refused.detail)
        except _NETWORK_ERRORS as error:
            lost = self._lost(error)
            return lost if isinstance(lost, Denied) else Unknown(lost.detail)
        return Created(view.sha256)

    def get(self, key: str, limit: int) -> GetResult:
        try:
            response = self._connection.client().get_object(Bucket=self._location.bucket, Key=self._location.key(key))
            with contextlib.closing(response["Body"]) as stream:
                # One byte more than allowed shows that there is more. A whole body is read into one piece of memory, a bounded one by way of a buffer.
                body = stream.read() if response["ContentLength"] <= limit else stream.read(limit + 1)
            if len(body) < min(response["ContentLength"], limit + 1):
                return Unavailable("the answer was cut short")
            return Found(body)
        except ClientError as error:
            if _code(error) in ("NoSuchKey", "404"):
                return NotFound()
            return self._refused(error, "s3:GetObject (and s3:ListBucket, without which a missing key looks forbidden)", key)
        except _NETWORK_ERRORS as error:
            return self._lost(error)

    def head(self, key: str) -> HeadResult:
        try:
            response = self._connection.client().head_object(Bucket=self._location.bucket, Key=self._location.key(key))
            return Exists(response["ContentLength"])
        except ClientError as error:
            if _status(error) == 404:
                return NotFound()
            return self._refused(error, "s3:GetObject", key)
        except _NETWORK_ERRORS as error:
            return self._lost(error)

    def list(self, prefix: str, start_after: str) -> ListResult:
        root = self._location.key("")
        try:
            response = self._connection.client().list_objects_v2(
                Bucket=self._location.bucket, Prefix=root + prefix, StartAfter=root + start_after if start_after else ""
            )
        except ClientError as error:
            return self._refused(error, "s3:ListBucket", prefix)
        except _NETWORK_ERRORS as error:
            return self._lost(error)
        keys = tuple(item["Key"].removeprefix(root) for item in response.get("Contents", ()))
        return Listed(keys, bool(response.get("IsTruncated", False)))

    def delete(self, key: str) -> DeleteResult:
        check_deletable(key)
        try:
            self._connection.client().delete_object(Bucket=self._location.bucket, Key=self._location.key(key))
        except ClientError as error:
            if _code(error) in ("NoSuchKey", "404"):
                return Deleted()
            refused = self._refused(error, "s3:DeleteObject", key)
            return refused if isinstance(refused, Denied) else Unknown(refused.detail)
        except _NETWORK_ERRORS as error:
            lost = self._lost(error)
            return lost if isinstance(lost, Denied) else Unknown(lost.detail)
        return Deleted()

    def reconnect(self, *, renew: bool = False) -> None:
        self._connection.reconnect(renew=renew)

    def _refused(self, error: ClientError, action: str, key: str) -> Denied | Unavailable:
        return refused(error, action, self._location.bucket, self._location.key(key), self._connection)

    def _lost(self, error: Exception) -> Denied | Unavailable:
        return lost(error, self._connection.remedies)


def refused(error: ClientError, action: str, bucket: str, key: str, connection: S3Connection) -> Denied | Unavailable:
    """What an error response means, for people who must fix it."""
    code, status = _code(error), _status(error)
    where = f"{key.rsplit('/', 1)[0]}/" if "/" in key else key
    if code == "NoSuchBucket" or (status == 404 and code in ("404", "NotFound")):
        return Denied(
            "BucketMissing",
            f"bucket {bucket!r} does not exist at {connection.endpoint or 'AWS'}: create it or correct the URI",
            permanent=True,
        )
    if code in _WRONG_REGION:
        return Denied(
            "WrongRegion", f"bucket {bucket!r} is not in region {connection.region}: {connection.remedies.region}", permanent=True
        )
    if code == "RequestTimeTooSkewed":
        return Denied("ClockSkewed", "the store says that this machine's clock is wrong: correct the node's time service")
    if code in _PASSING or code in _CONFLICT or status >= 500 or status in (408, 409, 429):
        return Unavailable(f"{code} ({status})")
    return Denied(
        "AccessDenied" if status in (401, 403) else "StorageDenied",
        f"{action} on s3://{bucket}/{where}* was refused with {code} ({status}): {connection.remedies.rights}",
    )


def lost(error: Exception, remedies: Remedies = TRAINERS) -> Denied | Unavailable:
    """What a failed connection or missing credentials mean. The text is the error's type only: its message may hold a signed URL."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return Denied("CredentialsMissing", f"no credentials were found: {remedies.missing}")
    if isinstance(error, CredentialRetrievalError):
        return Denied("CredentialsUnavailable", remedies.unavailable)
    if isinstance(error, FileNotFoundError | PermissionError):
        return Denied("CredentialsMissing", f"{Path(str(error.filename)).name} {remedies.unreadable}")
    return Unavailable(type(error).__name__)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def open_store(location: S3Location, *, endpoint: str | None, region: str, credentials_dir: str = "") -> S3Store:
    """The store of one job's root. Nothing is asked of it yet; `endpoint` None means AWS."""
    return S3Store(location, S3Connection(endpoint=endpoint, region=region, credentials_dir=credentials_dir))


def open_reader(location: S3Location, *, endpoint: str | None, region: str, credentials_dir: str = "", remedies: Remedies) -> S3Store:
    """As `open_store`, for people who only look: nothing but GET, HEAD and LIST can leave it."""
    return S3Store(
        location, S3Connection(endpoint=endpoint, region=region, credentials_dir=credentials_dir, read_only=True, remedies=remedies)
    )
