"""Steps that move data objects: store the files of a save, load the files of a COMMIT. Nothing here touches the log."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

from spottune_contract.failpoint import hit
from spottune_contract.layout import data_key
from spottune_contract.records import Commit, DataFile
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

LOOKS = 3
"""A missing or damaged object is believed to be so after this many looks, each on a new connection."""


@dataclass(frozen=True)
class Uploaded:
    """Data objects that are all in the store, but invisible until a COMMIT names them."""

    save: str
    files: tuple[DataFile, ...]
    digests: dict[str, str]


def store_files(files: Files, me: Writer, step: int, save: str, part_bytes: int) -> Steps[Uploaded]:
    """Store files in objects of at most `part_bytes`. Hashes are of what was meant, taken from memory before anything is sent."""
    parts: list[tuple[DataFile, memoryview]] = []
    digests = {}
    for name, content in files.items():
        whole = memoryview(content).cast("B")
        digests[name] = hashlib.sha256(whole).hexdigest()
        pieces = [whole[start : start + part_bytes] for start in range(0, len(whole), part_bytes)] or [whole]
        for number, piece in enumerate(pieces):
            key = data_key(me.epoch, me.token, step, save, name if len(pieces) == 1 else f"{name}.part{number:04d}")
            sha256 = digests[name] if len(pieces) == 1 else hashlib.sha256(piece).hexdigest()
            parts.append((DataFile(name=name, part=number, key=key, size=len(piece), sha256=sha256), piece))
    # The smallest first: it is there at once, and a store that refuses is known before gigabytes are sent.
    puts = [Put(file.key, body) for file, body in sorted(parts, key=lambda part: part[0].size)]
    yield from _put_all(puts[:1])
    hit("T4")
    yield from _put_all(puts[1:])
    hit("T5")
    return Uploaded(save, tuple(file for file, _ in parts), digests)


def load_files(commit: Commit) -> Steps[Files | str]:
    """Verified files of one COMMIT, or why they cannot be used: a mismatch or a 404 that repeats on new connections."""
    fault = manifest_fault(commit)
    if fault:
        return fault
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
    files = {name: parts[0] if len(parts) == 1 else b"".join(parts) for name, parts in bodies.items()}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != commit.digests[name]:
            return f"{name}: SHA-256 of the whole file differs"
    return files


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


def _put_all(puts: Sequence[Put]) -> Steps[None]:
    pending = list(puts)
    for attempt in count():
        if not pending:
            return
        results: list[PutResult] = yield Together(tuple(pending))
        failed = []
        for put, result in zip(pending, results, strict=True):
            if isinstance(result, AlreadyExists):
                yield from _confirm(put)
            elif not isinstance(result, Created):
                failed.append((put, result))
        pending = [put for put, _ in failed]
        if failed:
            yield Backoff(attempt, refusal(*(result for _, result in failed)))


def _confirm(put: Put) -> Steps[None]:
    """The name is ours alone, so an earlier PUT of ours landed after its response was lost. It must have landed whole."""
    for attempt in count():
        result: HeadResult = yield Head(put.key)
        if isinstance(result, Exists) and result.size == len(put.body):
            return
        if isinstance(result, Exists | NotFound):
            raise StorageUnavailable(f"{put.key} exists, but not as it was sent; the save is given up", reason="StoreInconsistent")
        yield Backoff(attempt, result)
