"""Runs protocol steps against a real store: threads, deadlines, retries with jitter. It decides nothing about the protocol."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from spottune_trainer.checkpoint.errors import StorageDenied, StorageUnavailable, Superseded
from spottune_trainer.checkpoint.store import (
    Backoff,
    Delete,
    Denied,
    Get,
    Head,
    List,
    Put,
    Request,
    Store,
    Together,
    Unavailable,
    Unknown,
)
from spottune_trainer.checkpoint.transfer import Steps

T = TypeVar("T")
Single = Put | Get | Head | List | Delete

CONNECTIONS = 8
"""Requests of one step at the same time."""
REQUEST_SECONDS = 30.0
"""Longest wait for one request, and 4 s more for every MiB: an answer that trickles is no answer."""
_SECONDS_PER_BYTE = 4.0 / (1 << 20)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


@dataclass(frozen=True)
class Patience:
    """How long to go on trying, in seconds."""

    unavailable: float
    """Without an answer; a deadline of the caller replaces it."""
    denied: float
    """Against refusals: credentials are rotated and rights arrive late."""


def start_daemon(target: Callable[[], None]) -> None:
    """A thread that may be left behind in a system call: it never keeps the process from ending."""
    threading.Thread(target=target, daemon=True, name="spottune-store").start()


class Driver:
    """Drives one generator at a time (the caller sees to that) and turns its back-offs into waiting or giving up."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._random = random.Random()  # noqa: S311 - jitter

    def run(
        self, steps: Steps[T], *, patience: Patience, deadline: float | None = None, superseded: Callable[[], bool] = lambda: False
    ) -> T:
        """Run to the end. `deadline` is monotonic time; `superseded` is asked between requests.

        Raises `StorageUnavailable` at the deadline, `StorageDenied` for a refusal that lasts, `Superseded`, and what the steps raise.
        Requests that are still under way then are left behind: a PUT among them may land later.
        """
        until = time.monotonic() + patience.unavailable if deadline is None else deadline
        denied_since: float | None = None
        answer: Any = None
        try:
            while True:
                request: Request = steps.send(answer)
                if superseded():
                    raise Superseded("a newer snapshot takes the place of this one")
                if isinstance(request, Backoff):
                    denied_since = (denied_since or time.monotonic()) if isinstance(request.cause, Denied) else None
                    self._wait(request, until, denied_since, patience.denied, superseded)
                    answer = None
                elif isinstance(request, Together):
                    answer = self._gather(request.requests, until, superseded)
                else:
                    answer = self._gather((request,), until, superseded)[0]
        except StopIteration as finished:
            result: T = finished.value
            return result
        finally:
            steps.close()

    def _wait(
        self, backoff: Backoff, until: float, denied_since: float | None, denied_patience: float, superseded: Callable[[], bool]
    ) -> None:
        cause, now = backoff.cause, time.monotonic()
        if isinstance(cause, Denied):
            if cause.permanent or (denied_since is not None and now - denied_since >= denied_patience):
                raise StorageDenied(f"{self._store.name}: {cause.message}", reason=cause.reason)
            self._store.reconnect(renew=True)
        if now >= until:
            detail = cause.message if isinstance(cause, Denied) else cause.detail
            raise StorageUnavailable(
                f"{self._store.name} did not answer usefully in time (last: {detail}); the next attempt goes on from the last commit",
                last=detail,
            )
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(backoff.attempt, 10)) * self._random.uniform(0.5, 1.0)
        end = min(until, now + pause)
        while (left := end - time.monotonic()) > 0 and not superseded():
            time.sleep(min(left, 0.2))

    def _gather(self, requests: Sequence[Single], until: float, superseded: Callable[[], bool]) -> list[Any]:
        """Results in order. What has no answer in time is given up, on a thread that is left behind."""
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(len(requests)):
            waiting.put(place)
        done: queue.SimpleQueue[tuple[int, object]] = queue.SimpleQueue()
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    place = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((place, execute(self._store, requests[place])))
                except BaseException as error:
                    done.put((place, error))

        for _ in range(min(CONNECTIONS, len(requests))):
            start_daemon(work)
        results: list[Any] = [_silence(request) for request in requests]
        limit = min(until, time.monotonic() + REQUEST_SECONDS + sum(map(_bytes, requests)) * _SECONDS_PER_BYTE)
        missing = len(requests)
        while missing and (left := limit - time.monotonic()) > 0 and not superseded():
            try:
                place, result = done.get(timeout=min(left, 0.2))
            except queue.Empty:
                continue
            if isinstance(result, BaseException):
                stop.set()
                raise result
            results[place] = result
            missing -= 1
        stop.set()
        return results


def execute(store: Store, request: Single) -> object:
    """Carry out one request."""
    match request:
        case Put(key, body):
            return store.put(key, body)
        case Get(key, limit, fresh):
            if fresh:
                store.reconnect()
            return store.get(key, limit)
        case Head(key):
            return store.head(key)
        case List(prefix, start_after):
            return store.list(prefix, start_after)
        case Delete(key):
            return store.delete(key)


def _silence(request: Single) -> Unknown | Unavailable:
    return Unknown("no answer in time") if isinstance(request, Put | Delete) else Unavailable("no answer in time")


def _bytes(request: Single) -> int:
    if isinstance(request, Put):
        return len(request.body)
    return request.limit if isinstance(request, Get) and not request.key.startswith("log/") else 0
