"""Object layout of one job in its bucket: the only place where keys are built or taken apart.

s3://BUCKET/PREFIX/<cluster>/<namespace>/<job-uid>/
    log/0000000000.json                        created once, contiguous, never overwritten
    data/e0007-<writer>/s0001200-<save>/NAME   one folder per save, never overwritten
    probe/<nonce>                              the store's honesty test
    tail/e0007-<writer>.log                    end of the attempt's own log, for a pod that vanished
    handover/e0007-ready, e0007-left           an attempt waits to take over; it writes no more (`spec.handover: Warm` only)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SLOT_DIGITS = 10
MAX_OBJECT_BYTES = 64 * 1024 * 1024
"""Data objects are split at this size: one PutObject each, no multipart uploads."""

_TOKEN = re.compile(r"[a-z0-9]{8,32}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]{0,252}")
_SLOT_KEY = re.compile(rf"log/(\d{{{SLOT_DIGITS}}})\.json")
_DATA_KEY = re.compile(r"data/e(\d{4,})-([a-z0-9]{8,32})/s(\d{7,})-([a-z0-9]{8,32})/([A-Za-z0-9][A-Za-z0-9._-]{0,127})")


@dataclass(frozen=True)
class S3Location:
    """A parsed `s3://bucket/prefix`; the prefix has no leading or trailing slash and may be empty."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, uri: str) -> S3Location:
        """Parse `s3://bucket[/prefix]`. Raises `ValueError` that says what a right one looks like."""
        scheme, sep, rest = uri.partition("://")
        if scheme != "s3" or not sep:
            raise ValueError(f"{uri!r} has no s3:// scheme; write s3://BUCKET/PREFIX")
        bucket, _, prefix = rest.partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(f"{bucket!r} in {uri!r} is not a bucket name; write s3://BUCKET/PREFIX")
        prefix = prefix.strip("/")
        if prefix and not all(_SEGMENT.fullmatch(part) for part in prefix.split("/")):
            raise ValueError(f"{uri!r} has an empty, relative or odd path segment; use letters, digits and . _ - = only")
        return cls(bucket, prefix)

    def child(self, *parts: str) -> S3Location:
        return S3Location(self.bucket, "/".join(p for p in (self.prefix, *parts) if p))

    def key(self, relative: str) -> str:
        """Full object key of a key that is relative to this location."""
        return f"{self.prefix}/{relative}" if self.prefix else relative

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


def job_location(storage: str, cluster: str, namespace: str, job_uid: str) -> S3Location:
    """Root of one job's objects. The UID is part of it: a re-created job of the same name never meets the old one's log."""
    return S3Location.parse(storage).child(cluster, namespace, job_uid)


@dataclass(frozen=True)
class DataKey:
    """A key under `data/`, taken apart."""

    epoch: int
    writer: str
    step: int
    save: str
    name: str

    def __str__(self) -> str:
        return f"{save_prefix(self.epoch, self.writer, self.step, self.save)}{self.name}"


def slot_key(slot: int) -> str:
    """Relative key of a log slot, counted from 0."""
    if slot < 0 or slot >= 10**SLOT_DIGITS:
        raise ValueError(f"slot {slot} is out of range")
    return f"log/{slot:0{SLOT_DIGITS}d}.json"


def parse_slot_key(key: str) -> int | None:
    """Slot of a relative log key, or None if it is not one."""
    match = _SLOT_KEY.fullmatch(key)
    return int(match[1]) if match else None


def writer_prefix(epoch: int, writer: str) -> str:
    return f"data/e{epoch:04d}-{_token(writer)}/"


def save_prefix(epoch: int, writer: str, step: int, save: str) -> str:
    """Relative prefix of one save, with a trailing slash."""
    return f"{writer_prefix(epoch, writer)}s{step:07d}-{_token(save)}/"


def data_key(epoch: int, writer: str, step: int, save: str, name: str) -> str:
    """Relative key of one data object. Raises `ValueError` for a name that is not a plain file name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a plain file name")
    return save_prefix(epoch, writer, step, save) + name


def parse_data_key(key: str) -> DataKey | None:
    """Take a relative data key apart, or None if it is not exactly of our form (a traversal attempt never is)."""
    match = _DATA_KEY.fullmatch(key)
    if not match:
        return None
    parsed = DataKey(int(match[1]), match[2], int(match[3]), match[4], match[5])
    return parsed if str(parsed) == key else None


def probe_key(nonce: str) -> str:
    return f"probe/{_token(nonce)}"


def tail_key(epoch: int, writer: str) -> str:
    """Relative key of the kept end of an attempt's log."""
    return f"tail/e{epoch:04d}-{_token(writer)}.log"


def ready_key(epoch: int) -> str:
    """Relative key of the mark by which an attempt says that it has loaded everything, and waits to take over."""
    return f"handover/e{epoch:04d}-ready"


def left_key(epoch: int) -> str:
    """Relative key of the mark by which an attempt says that it writes no more."""
    return f"handover/e{epoch:04d}-left"


def _token(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"{value!r} is not an identity of 8 to 32 lower-case letters and digits")
    return value
