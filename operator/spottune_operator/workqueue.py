"""A queue of keys to look at: each key once at a time, however often it was added, later when asked or when it failed.

Clocks are the event loop's, which is monotonic: a jump of the wall clock moves nothing here.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from spottune_operator.tasks import cancelled

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Backoff:
    """Waiting times after failures in a row: `first`, doubling up to `longest`, each cut by a random share of up to `jitter`."""

    first: float = 0.2
    longest: float = 60.0
    jitter: float = 0.5

    def seconds(self, failures: int, chance: float) -> float:
        """Seconds to wait after the `failures`-th failure in a row (from 1); `chance` in [0, 1) decides the jitter."""
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 32))
        return full * (1.0 - self.jitter * chance)


@dataclass(frozen=True)
class Failed(Generic[K]):
    """One pass over a key threw."""

    key: K
    error: Exception
    failures: int
    """In a row, this one included."""
    retry_in: float


WORKERS = 64
"""Looks under way at once. A look waits for a handful of calls, and a busy API server answers each after half a second or more: with 8, six
looks a second were the most, whatever the CPU."""


class WorkQueue(Generic[K]):
    """Calls `look(key)` for each added key. `look` returns the seconds after which to look again, or None for not by itself.

    A key whose look threw is set aside for its backoff, and additions do not shorten that: a job that we cannot handle costs
    one try per backoff, however many events it makes, and no other key waits for it. Of the keys that are due the urgent ones come
    first; the others come in the order in which they became due.
    """

    def __init__(
        self,
        look: Callable[[K], Awaitable[float | None]],
        *,
        workers: int = WORKERS,
        backoff: Backoff | None = None,
        on_failure: Callable[[Failed[K]], None] = lambda failed: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._look = look
        self._workers = workers
        self._backoff = backoff or Backoff()
        self._on_failure = on_failure
        self._chance = chance
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._urgent: dict[K, None] = {}
        """Keys whose next look is urgent, in order."""
        self._order = itertools.count()
        self._active: dict[K, asyncio.Task[None]] = {}
        self._failures: dict[K, int] = {}
        self._not_before: dict[K, float] = {}
        self._waiting: dict[K, list[asyncio.Future[float | None]]] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait or are being looked at."""
        return len(self._due.keys() | self._active.keys())

    @property
    def full(self) -> bool:
        """As many looks are under way as there may be: what else is due waits."""
        return len(self._active) >= self._workers

    @property
    def set_aside(self) -> int:
        """Keys whose last look threw."""
        return len(self._failures)

    def add(self, key: K, delay: float = 0.0, *, urgent: bool = False) -> None:
        """Look at `key` in `delay` seconds, or earlier if it is due earlier already."""
        if urgent:
            self._urgent[key] = None
            self._wake.set()
        due = max(asyncio.get_running_loop().time() + delay, self._not_before.get(key, 0.0))
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, next(self._order), key))
            self._wake.set()

    def next_look(self, key: K, *, urgent: bool = False) -> asyncio.Future[float | None]:
        """Add `key`; the future carries the answer of a look that began after this call, or its error, if it threw."""
        future: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        self.add(key, urgent=urgent)
        return future

    def forget(self) -> None:
        """Drop what waits, backoffs included: for somebody who begins anew and learns from elsewhere what there is to do."""
        self._due.clear()
        self._heap.clear()
        self._urgent.clear()
        self._failures.clear()
        self._not_before.clear()

    async def run(self) -> None:
        """Work until cancelled; looks under way are cancelled with it."""
        try:
            while True:
                self._wake.clear()
                self._start_due()
                await self._sleep()
        finally:
            await cancelled(self._active.values())

    def _start_due(self) -> None:
        now = asyncio.get_running_loop().time()
        for key in [key for key in self._urgent if key not in self._active and self._due.get(key, float("inf")) <= now]:
            if self.full:
                return
            self._start(key)
        while self._heap and self._heap[0][0] <= now and not self.full:
            due, _, key = heapq.heappop(self._heap)
            # If not: stale, or put back when its look has ended.
            if self._due.get(key) == due and key not in self._active:
                self._start(key)

    def _start(self, key: K) -> None:
        del self._due[key]
        self._urgent.pop(key, None)
        self._active[key] = asyncio.create_task(self._one(key), name=f"look {key}")

    async def _sleep(self) -> None:
        """Until the next key is due, or something was added or finished."""
        if self.full:
            await self._wake.wait()
            return
        if not self._heap:
            await self._wake.wait()
            return
        delay = max(0.0, self._heap[0][0] - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _one(self, key: K) -> None:
        waiting = self._waiting.pop(key, [])
        try:
            again = await self._look(key)
        except Exception as error:
            self._set_aside(key, error)
            for future in waiting:
                if not future.done():
                    future.set_exception(error)
        else:
            self._failures.pop(key, None)
            self._not_before.pop(key, None)
            if again is not None:
                self.add(key, again)
            for future in waiting:
                if not future.done():
                    future.set_result(again)
        finally:
            del self._active[key]
            if key in self._due:
                heapq.heappush(self._heap, (self._due[key], next(self._order), key))
            self._wake.set()

    def _set_aside(self, key: K, error: Exception) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        seconds = self._backoff.seconds(failures, self._chance())
        self._not_before[key] = asyncio.get_running_loop().time() + seconds
        # An addition from during the look may be due sooner: it waits with the rest.
        self._due.pop(key, None)
        self.add(key, seconds)
        self._on_failure(Failed(key, error, failures, seconds))
