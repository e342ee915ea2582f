"""Steps that move data objects: store the files of a save, load the files of a COMMIT. Nothing here touches the log."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

from spottune_contract.failpoint import hit
from spottune_contract.layout import MAX_OBJECT_BYTES, data_key
from spottune_contract.records import Commit, DataFile, file_digest
from spottune_trainer.checkpoint.errors import StorageUnavailable
from spottune_trainer.checkpoint.lineage import Writer, manifest_fault
from spottune_trainer.checkpoint.store import (
    AlreadyExists,
    Backoff,
    Created,
    Denied,
    Exists,
    Found,
    Get,
    GetResult,
    Head,
    HeadResult,
    List,
    Listed,
    ListResult,
    NotFound,
    Put,
    PutResult,
    Refusal,
    Request,
    Together,
    Unavailable,
    Unknown,
)

T = TypeVar("T")
Steps = Generator[Request, Any, T]
Files = Mapping[str, bytes | memoryview]
"""Logical files of one state."""

_MIB = 1 << 20
LOOKS = 3
"""A missing or damaged object is believed to be so after this many looks, each on a new connection."""


@dataclass(frozen=True)
class Uploaded:
    """Data objects that are all in the store, but invisible until a COMMIT names them."""

    save: str
    files: tuple[DataFile, ...]
    digests: dict[str, str]


def part_size(size: int) -> int:
    """Bytes of each part of a file of `size` bytes, but for the last.

    One part for each connection, so that they end together, but of no less than 12 MiB, because each request costs milliseconds of CPU
    and waits for an answer, and of no more than an object may have. It depends on nothing but `size`: equal files have equal parts and
    so equal digests.
    """
    return min(MAX_OBJECT_BYTES, max(12 * _MIB, -(-size // (8 * _MIB)) * _MIB))


def digest_of(content: bytes | memoryview) -> str:
    """What a COMMIT states for a logical file of this content."""
    whole = memoryview(content).cast("B")
    return file_digest([hashlib.sha256(piece).hexdigest() for piece in _pieces(whole, part_size(len(whole)))])


def store_files(files: Files, me: Writer, step: int, save: str, part_bytes: int) -> Steps[Uploaded]:
    """Store files in objects of at most `part_bytes`. Hashes are of what was meant: of the memory, each part just before it is sent."""
    parts: list[tuple[str, int]] = []
    puts: list[Put] = []
    for name, content in files.items():
        whole = memoryview(content).cast("B")
        pieces = _pieces(whole, min(part_bytes, part_size(len(whole))))
        for number, piece in enumerate(pieces):
            key = data_key(me.epoch, me.token, step, save, name if len(pieces) == 1 else f"{name}.part{number:04d}")
            parts.append((name, number))
            puts.append(Put(key, piece))
    # The smallest first: it is there at once, and a store that refuses is known before gigabytes are sent. Then the largest first,
    # so that no connection begins with one when the others are done.
    puts_by_size = sorted(puts, key=lambda put: len(put.body))
    sha256 = yield from _put_all(puts_by_size[:1])
    hit("T4")
    sha256 |= yield from _put_all(puts_by_size[:0:-1])
    hit("T5")
    stored = tuple(
        DataFile(name=name, part=number, key=put.key, size=len(put.body), sha256=sha256[put.key])
        for (name, number), put in zip(parts, puts, strict=True)
    )
    return Uploaded(save, stored, _digests(stored))


def _pieces(whole: memoryview, length: int) -> list[memoryview]:
    return [whole[start : start + length] for start in range(0, len(whole), length)] or [whole]


def _digests(stored: Sequence[DataFile]) -> dict[str, str]:
    """Digest of each logical file; parts are in order."""
    parts: dict[str, list[str]] = {}
    for file in stored:
        parts.setdefault(file.name, []).append(file.sha256)
    return {name: file_digest(sha256) for name, sha256 in parts.items()}


def load_files(commit: Commit) -> Steps[Files | str]:
    """Verified files of one COMMIT, or why they cannot be used: a mismatch or a 404 that repeats on new connections."""
    fault = manifest_fault(commit)
    if fault:
        return fault
    for name, digest in _digests(commit.files).items():
        if digest != commit.digests[name]:
            return f"{name}: the digest of the file is not that of its parts"
    first = yield from _load_parts(commit.files[:1])
    if isinstance(first, str):
        return first
    hit("T9")
    rest = yield from _load_parts(commit.files[1:])
    if isinstance(rest, str):
        return rest
    bodies: dict[str, list[bytes]] = {name: [] for name in commit.digests}
    for file, body in zip(commit.files, first + rest, strict=True):
        bodies[file.name].append(body)
    return {name: parts[0] if len(parts) == 1 else b"".join(parts) for name, parts in bodies.items()}


def fetch(key: str, limit: int, *, fresh: bool, first: GetResult | None = None) -> Steps[Found | NotFound]:
    """GET until there is an answer. `first` is an answer that is there already."""
    result = first
    for attempt in count():
        if result is None:
            result = yield Get(key, limit, fresh or attempt > 0)
        if isinstance(result, Found | NotFound):
            return result
        yield Backoff(attempt, result)
        result = None
    raise AssertionError("unreachable")


def list_keys(prefix: str, start_after: str) -> Steps[list[str]]:
    """All keys under a prefix, page by page."""
    keys: list[str] = []
    for attempt in count():
        result: ListResult = yield List(prefix, start_after)
        if not isinstance(result, Listed):
            yield Backoff(attempt, result)
            continue
        keys.extend(result.keys)
        if not result.more or not result.keys:
            break
        start_after = result.keys[-1]
    return keys


def refusal(*results: PutResult | GetResult) -> Refusal:
    """The most telling reason among results: a refusal before a lost answer."""
    refusals = [r for r in results if isinstance(r, Denied | Unknown | Unavailable)]
    return min(refusals, key=lambda r: not isinstance(r, Denied), default=Unavailable("the store's answers contradict each other"))


def _load_parts(files: Sequence[DataFile]) -> Steps[list[bytes] | str]:
    results: list[GetResult] = yield Together(tuple(Get(file.key, file.size) for file in files))
    bodies = []
    for file, result in zip(files, results, strict=True):
        body = yield from intact(file, result)
        if isinstance(body, str):
            return body
        bodies.append(body)
    return bodies


def intact(file: DataFile, first: GetResult | None = None) -> Steps[bytes | str]:
    """Content of one data object, or what is wrong with it. `first` is an answer that is there already."""
    why = ""
    for look in range(LOOKS):
        found = yield from fetch(file.key, file.size, fresh=look > 0, first=first if look == 0 else None)
        if isinstance(found, NotFound):
            why = f"{file.key} is missing"
        elif len(found.body) != file.size:
            why = f"{file.key} has not the recorded {file.size} bytes"
        elif hashlib.sha256(found.body).hexdigest() != file.sha256:
            why = f"{file.key}: SHA-256 differs"
        else:
            return found.body
    return why


def _put_all(puts: Sequence[Put]) -> Steps[dict[str, str]]:
    """Create all objects; SHA-256 of each by key."""
    sha256: dict[str, str] = {}
    pending = list(puts)
    for attempt in count():
        if not pending:
            break
        results: list[PutResult] = yield Together(tuple(pending))
        failed = []
        for put, result in zip(pending, results, strict=True):
            if isinstance(result, Created | AlreadyExists):
                if isinstance(result, AlreadyExists):
                    yield from _confirm(put)
                stated = result.sha256 if isinstance(result, Created) else ""
                sha256[put.key] = stated or hashlib.sha256(put.body).hexdigest()
            else:
                failed.append((put, result))
        pending = [put for put, _ in failed]
        if failed:
            yield Backoff(attempt, refusal(*(result for _, result in failed)))
    return sha256


def _confirm(put: Put) -> Steps[None]:
    """The name is ours alone, so an earlier PUT of ours landed after its response was lost. It must have landed whole."""
    for attempt in count():
        result: HeadResult = yield Head(put.key)
        if isinstance(result, Exists) and result.size == len(put.body):
            return
        if isinstance(result, Exists | NotFound):
            raise StorageUnavailable(f"{put.key} exists, but not as it was sent; the save is given up", reason="StoreInconsistent")
        yield Backoff(attempt, result)
