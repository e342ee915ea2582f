"""The port to an object store: what the checkpoint protocol asks for and what may come back.

Requests and results are values. A store never raises for what a network or a server can do; it answers with one of the results.
Keys are relative to the job's root.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

Body = bytes | bytearray | memoryview


# --- results ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Created:
    """The PUT says that it created the object. Only a read-back proves it."""

    sha256: str = field(default="", compare=False)
    """Of the body as it was signed, hexadecimal, from memory before it was sent; empty if the store's client does not hash."""


@dataclass(frozen=True)
class AlreadyExists:
    """The condition failed: something is under that key."""


@dataclass(frozen=True)
class Found:
    """Body of an object; at most one byte more than the limit that was asked for."""

    body: bytes


@dataclass(frozen=True)
class Exists:
    """Answer to HEAD."""

    size: int


@dataclass(frozen=True)
class NotFound:
    """There is no such object, says the store."""


@dataclass(frozen=True)
class Listed:
    """One page of keys in ascending order; `more` if another page may follow the last key. Only a hint: a page may be stale."""

    keys: tuple[str, ...]
    more: bool


@dataclass(frozen=True)
class Deleted:
    """The object is gone, or was never there."""


@dataclass(frozen=True)
class Denied:
    """The store refuses. `message` names the action, the key prefix and the remedy."""

    reason: str
    message: str
    permanent: bool = False
    """True if asking again cannot help (no such bucket); False if rights or credentials may still arrive."""


@dataclass(frozen=True)
class Unavailable:
    """No useful answer to a request that changes nothing."""

    detail: str


@dataclass(frozen=True)
class Unknown:
    """No useful answer to a PUT or DELETE: it may have happened, and it may still happen later."""

    detail: str


PutResult = Created | AlreadyExists | Denied | Unknown
GetResult = Found | NotFound | Denied | Unavailable
HeadResult = Exists | NotFound | Denied | Unavailable
ListResult = Listed | Denied | Unavailable
DeleteResult = Deleted | Denied | Unknown
Refusal = Denied | Unavailable | Unknown


class Store(Protocol):
    """An object store seen from one job's root. Safe to call from several threads."""

    @property
    def name(self) -> str:
        """URI and endpoint, for messages."""
        ...

    def put(self, key: str, body: Body) -> PutResult:
        """Create `key` if there is nothing under it (`If-None-Match: *`)."""
        ...

    def get(self, key: str, limit: int) -> GetResult:
        """Read `key`, at most `limit` + 1 bytes of it."""
        ...

    def head(self, key: str) -> HeadResult:
        """Size of `key`."""
        ...

    def list(self, prefix: str, start_after: str) -> ListResult:
        """Keys under `prefix` after `start_after` (empty: from the first)."""
        ...

    def delete(self, key: str) -> DeleteResult:
        """Delete `key`. Only below `data/` and `probe/`: anything else is a defect of ours and raises `AssertionError`."""
        ...

    def reconnect(self, *, renew: bool = False) -> None:
        """Use new connections from the next request on; `renew`: look for credentials again, too."""
        ...


# --- requests of the protocol steps -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Put:
    key: str
    body: Body = field(repr=False)


@dataclass(frozen=True)
class Get:
    key: str
    limit: int
    fresh: bool = False
    """Ask on a new connection."""


@dataclass(frozen=True)
class Head:
    key: str


@dataclass(frozen=True)
class List:
    prefix: str
    start_after: str = ""


@dataclass(frozen=True)
class Delete:
    key: str


@dataclass(frozen=True)
class Together:
    """Several requests at once, on several connections; the answer is a list of results in the same order."""

    requests: tuple[Put | Get, ...]


@dataclass(frozen=True)
class Backoff:
    """Wait a little before trying again, or give up: the driver knows the deadline and raises if it has passed."""

    attempt: int
    cause: Refusal


Request = Put | Get | Head | List | Delete | Together | Backoff


def check_deletable(key: str) -> None:
    """The last line of defence: what may be deleted at all."""
    assert key.startswith(("data/", "probe/")), f"{key} must never be deleted"
