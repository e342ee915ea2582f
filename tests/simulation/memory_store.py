"""An object store in memory with the faults of a real one, driven by a random source. Only for tests."""

from __future__ import annotations

import random
from dataclasses import dataclass

from spottune_trainer.checkpoint.drive import execute
from spottune_trainer.checkpoint.store import (
    AlreadyExists,
    Body,
    Created,
    Delete,
    Deleted,
    DeleteResult,
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
    Unavailable,
    Unknown,
    check_deletable,
)

WRITABLE = ("log/", "data/", "probe/")


@dataclass
class Faults:
    """Probabilities per request."""

    lost_before: float = 0.04
    """503, 409 or a reset connection: nothing happened."""
    lost_after: float = 0.04
    """It happened, the answer got lost."""
    late: float = 0.05
    """No answer, and it happens at some later time, or never."""
    stale_list: float = 0.3
    garbled: float = 0.01
    """An answer cut short, once: the same request again is answered well."""
    lies: float = 0.0
    """A PUT to an existing key is answered with success and ignored."""


class MemoryStore:
    """Conditional PUT, GET, LIST, HEAD, DELETE on a dictionary. `settle` lets late requests happen."""

    name = "memory"

    def __init__(self, chance: random.Random, faults: Faults) -> None:
        self.objects: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.corrupted: set[str] = set()
        self.faults = faults
        self._chance = chance
        self._late: list[Put | Delete] = []
        self._garbled: set[str] = set()

    def happens(self, probability: float) -> bool:
        return self._chance.random() < probability

    def settle(self, *, everything: bool = False) -> None:
        """A late request happens now, or all of them do."""
        while self._late and (everything or self.happens(0.5)):
            request = self._late.pop(self._chance.randrange(len(self._late)))
            if isinstance(request, Put):
                self.objects.setdefault(request.key, bytes(request.body))
            else:
                self._remove(request.key)

    def corrupt(self, key: str) -> None:
        """Flip a bit, cut the end off, or put another object's bytes there, for good."""
        body = self.objects[key]
        kind = self._chance.randrange(3)
        if kind == 0:
            place = self._chance.randrange(len(body))
            body = body[:place] + bytes([body[place] ^ 1 << self._chance.randrange(8)]) + body[place + 1 :]
        elif kind == 1:
            body = body[: self._chance.randrange(len(body))]
        else:
            body = self.objects[self._chance.choice(sorted(self.objects.keys() - {key}) or [key])] + b" "
        self.objects[key] = body
        self.corrupted.add(key)

    def execute(self, request: Put | Get | Head | List | Delete) -> object:
        return execute(self, request)

    # --- the port -------------------------------------------------------------------------------------------------------

    def put(self, key: str, body: Body) -> PutResult:
        assert key.startswith(WRITABLE), f"{key} is outside of what the protocol may write"
        if self.happens(self.faults.lost_before):
            return Unknown("503")
        if self.happens(self.faults.late):
            self._late.append(Put(key, bytes(body)))
            return Unknown("timeout")
        if key in self.objects:
            return Created() if self.happens(self.faults.lies) else AlreadyExists()
        self.objects[key] = bytes(body)
        return Unknown("timeout") if self.happens(self.faults.lost_after) else Created()

    def get(self, key: str, limit: int) -> GetResult:
        if self.happens(self.faults.lost_before):
            return Unavailable("500")
        if key not in self.objects:
            return NotFound()
        body = self.objects[key][: limit + 1]
        if key not in self._garbled and self.happens(self.faults.garbled):
            self._garbled.add(key)
            return Found(body[: len(body) // 2])
        self._garbled.discard(key)
        return Found(body)

    def head(self, key: str) -> HeadResult:
        if self.happens(self.faults.lost_before):
            return Unavailable("500")
        return Exists(len(self.objects[key])) if key in self.objects else NotFound()

    def list(self, prefix: str, start_after: str) -> ListResult:
        if self.happens(self.faults.lost_before):
            return Unavailable("500")
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > start_after)
        if self.happens(self.faults.stale_list):
            keys = keys[: self._chance.randint(0, len(keys))]
            keys += [key for key in self.deleted[-3:] if key.startswith(prefix)]
        page = keys[:20]
        return Listed(tuple(sorted(set(page))), len(keys) > 20)

    def delete(self, key: str) -> DeleteResult:
        check_deletable(key)
        if self.happens(self.faults.lost_before):
            return Unknown("503")
        if self.happens(self.faults.late):
            self._late.append(Delete(key))
            return Unknown("timeout")
        self._remove(key)
        return Unknown("timeout") if self.happens(self.faults.lost_after) else Deleted()

    def reconnect(self, *, renew: bool = False) -> None:
        """Nothing to do: there are no connections."""

    def _remove(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            self.deleted.append(key)
