"""Objects outside the checkpoint log: model and data sources, the exported adapter, the kept end of the attempt's own log.

The same client, credentials and error mapping as the checkpoint store; other calls, because sources are somebody else's objects.
"""

from __future__ import annotations

import errno
import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError as UrllibError

from spottune_contract.layout import S3Location
from spottune_trainer.checkpoint.errors import CheckpointError, StorageDenied, StorageUnavailable
from spottune_trainer.checkpoint.s3 import S3Connection, as_file, lost, refused
from spottune_trainer.checkpoint.store import Body, Denied, Unavailable

T = TypeVar("T")

MAX_FILES = 10_000
_CHUNK = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_JITTER = random.Random()  # noqa: S311 - its own: the global generator belongs to the training
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+ -]{0,254}")


@dataclass(frozen=True)
class Patience:
    """For how long one object is tried again, in seconds."""

    unavailable: float
    """Without a useful answer."""
    denied: float
    """Against refusals: credentials are rotated and rights arrive late."""
    hopeless: float = 0.0
    """Against refusals that no waiting cures by itself, such as a bucket that does not exist."""


FOR_SOURCES = Patience(unavailable=45.0, denied=4.0)
"""A bad source is known within a minute of the container's start."""
FOR_EXPORT = Patience(unavailable=600.0, denied=300.0, hopeless=300.0)
"""The run is over and durable: waiting is cheaper than another attempt, and somebody may still make it right."""


class SourceMissing(CheckpointError):
    """There is nothing under that URI. The caller knows whether it is a model (exit 20) or data (exit 21)."""

    reason = "SourceMissing"


class SourceUnusable(CheckpointError):
    """What is under that URI cannot be used: too large, too many files, or names that are not plain file names."""

    reason = "SourceUnusable"


class ScratchFull(CheckpointError):
    """The disk of this node has no room for a source. Another node may have."""

    reason = "ScratchFull"


def safe_relative(name: str) -> Path:
    """A relative path of plain names. Raises `ValueError` for anything that could leave its folder or hide in it."""
    parts = name.split("/")
    if not all(_SAFE_NAME.fullmatch(part) and part not in (".", "..") for part in parts):
        raise ValueError(f"{name!r} is not a plain relative file name")
    return Path(*parts)


class Objects:
    """Reads and writes whole objects by `s3://BUCKET/KEY`, in whatever bucket the URI names."""

    def __init__(self, connection: S3Connection) -> None:
        self._connection = connection

    def read(self, uri: str, *, limit: int | None = None) -> bytes:
        """A whole object of at most `limit` bytes. Raises `SourceMissing`, `SourceUnusable`, `StorageDenied`, `StorageUnavailable`."""
        where = _split(uri)

        def get() -> bytes:
            response = self._connection.client().get_object(Bucket=where.bucket, Key=where.prefix)
            with closing(response["Body"]) as stream:
                content = stream.read() if limit is None else stream.read(limit + 1)
            if len(content) < response["ContentLength"] and (limit is None or len(content) <= limit):
                raise OSError("the answer was cut short")
            return content

        body = self._persist(get, "s3:GetObject", where)
        if limit is not None and len(body) > limit:
            raise SourceUnusable(f"{uri} has more than {limit} bytes")
        return body

    def size(self, uri: str) -> int:
        """Bytes of an object: an early, cheap look at whether a source is there. Raises as `read` does."""
        where = _split(uri)
        # A listing tells a missing object from a missing bucket, which HEAD does not, and needs no more rights than the log does.
        page = self._persist(
            lambda: self._connection.client().list_objects_v2(Bucket=where.bucket, Prefix=where.prefix, MaxKeys=1), "s3:ListBucket", where
        )
        first = next(iter(page.get("Contents", ())), None)
        if first is None or first["Key"] != where.prefix:
            raise SourceMissing(f"{where} does not exist: upload it, or correct the URI")
        return first["Size"]

    def names(self, uri: str) -> list[str]:
        """Relative names of the objects under a prefix, sorted; empty if there are none."""
        return sorted(self._names(_split(uri.rstrip("/"))))

    def download(self, uri: str, path: Path) -> None:
        """One object into a file. Raises as `read` does."""
        self._download(_split(uri), path)

    def download_prefix(self, uri: str, target: Path, *, wanted: Callable[[str], bool] = lambda name: True) -> list[Path]:
        """Download everything under a prefix into `target`, keeping relative names; `wanted` chooses by relative name.

        Returns the paths in order of name. Raises as `read` does; a name that is not plain and relative is refused, never mended.
        """
        where = _split(uri.rstrip("/"))
        names = sorted(filter(wanted, self._names(where)))
        if not names:
            raise SourceMissing(f"there is no object under {where}/: upload the files, or correct the URI")
        if len(names) > MAX_FILES:
            raise SourceUnusable(f"there are {len(names)} objects under {where}/: give the prefix of one model")
        try:
            paths = [target / safe_relative(name) for name in names]
        except ValueError as error:
            raise SourceUnusable(f"an object under {where}/ cannot be a file: {error}") from None
        pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="spottune-download")
        try:
            list(pool.map(lambda pair: self._download(where.child(pair[0]), pair[1]), zip(names, paths, strict=True)))
        finally:
            # A stop that is raised here must not wait for gigabytes.
            pool.shutdown(wait=False, cancel_futures=True)
        return paths

    def put(
        self,
        uri: str,
        body: Body,
        *,
        once: bool = False,
        patience: Patience = FOR_SOURCES,
        tell: Callable[[str], None] = lambda trouble: None,
    ) -> None:
        """Write an object, whatever was there, and read it back. `tell` hears once that it has to wait, and for what.

        `once`: only if nothing was there, as a bucket may demand of everything below a job's location; what is there then has to be this.

        Raises `StorageDenied`, `StorageUnavailable`.
        """
        where = _split(uri)
        meant = hashlib.sha256(body).hexdigest()

        def put() -> None:
            client = self._connection.client()
            condition: dict[str, Any] = {"IfNoneMatch": "*"} if once else {}
            try:
                client.put_object(Bucket=where.bucket, Key=where.prefix, Body=as_file(body), ContentLength=len(body), **condition)
            except ClientError as error:
                # An earlier answer may have been lost: what is there decides.
                if not once or error.response["Error"]["Code"] != "PreconditionFailed":
                    raise
            # Not `with body`: entering a StreamingBody gives the raw response, which has no iter_chunks.
            with closing(client.get_object(Bucket=where.bucket, Key=where.prefix)["Body"]) as stream:
                stored = hashlib.sha256()
                for chunk in stream.iter_chunks(_CHUNK):
                    stored.update(chunk)
            if stored.hexdigest() != meant:
                raise OSError("what was read back differs from what was written")

        self._persist(put, "s3:PutObject and s3:GetObject", where, patience, tell)

    def _names(self, where: S3Location) -> Iterator[str]:
        """Relative names of the objects under a prefix; folder markers are left out."""
        root, after = f"{where.prefix}/", ""
        while True:
            page = self._persist(
                lambda start=after: self._connection.client().list_objects_v2(Bucket=where.bucket, Prefix=root, StartAfter=start),  # type: ignore[misc]
                "s3:ListBucket",
                where,
            )
            keys = [item["Key"] for item in page.get("Contents", ())]
            yield from (key.removeprefix(root) for key in keys if not key.endswith("/"))
            if not page.get("IsTruncated") or not keys:
                return
            after = keys[-1]

    def _download(self, where: S3Location, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)

        def get() -> None:
            response = self._connection.client().get_object(Bucket=where.bucket, Key=where.prefix)
            with closing(response["Body"]) as stream, path.open("wb") as file:
                for chunk in stream.iter_chunks(_CHUNK):
                    file.write(chunk)
            if path.stat().st_size != response["ContentLength"]:
                raise OSError("the download is incomplete")

        self._persist(get, "s3:GetObject", where)

    def _persist(
        self,
        attempt: Callable[[], T],
        action: str,
        where: S3Location,
        patience: Patience = FOR_SOURCES,
        tell: Callable[[str], None] = lambda trouble: None,
    ) -> T:
        """Try until it works, is refused for good, or patience ends."""
        started, tries = time.monotonic(), 0
        while True:
            try:
                return attempt()
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                    raise SourceMissing(f"{where} does not exist: upload it, or correct the URI") from None
                problem = refused(error, action, where.bucket, where.prefix, self._connection)
            except (BotoCoreError, UrllibError, OSError) as error:
                if isinstance(error, OSError) and error.errno in _NO_ROOM:
                    raise ScratchFull(
                        f"the scratch volume is full while downloading {where}: give the pod more ephemeral storage"
                    ) from None
                problem = lost(error)
            waited = time.monotonic() - started
            detail = problem.detail if isinstance(problem, Unavailable) else problem.message
            if isinstance(problem, Denied) and waited >= (patience.hopeless if problem.permanent else patience.denied):
                raise StorageDenied(f"{where}: {detail}", reason=problem.reason)
            if waited >= patience.unavailable:
                raise StorageUnavailable(f"{where} did not answer usefully for {patience.unavailable:.0f} s (last: {detail})")
            if tries == 0:
                tell(f"{where}: {detail}")
            self._connection.reconnect(renew=isinstance(problem, Denied))
            time.sleep(min(5.0, 0.1 * 2 ** min(tries, 10)) * _JITTER.uniform(0.5, 1.0))
            tries += 1


def _split(uri: str) -> S3Location:
    try:
        where = S3Location.parse(uri)
    except ValueError as error:
        raise SourceUnusable(str(error)) from None
    if not where.prefix:
        raise SourceMissing(f"{uri} names a bucket only: write s3://BUCKET/KEY")
    return where


def open_objects(*, endpoint: str | None, region: str, credentials_dir: str = "") -> Objects:
    """Access with the job's endpoint, region and credentials. Nothing is asked of the store yet."""
    connection = S3Connection(endpoint=endpoint, region=region, credentials_dir=credentials_dir, strict=False)
    return Objects(connection)
