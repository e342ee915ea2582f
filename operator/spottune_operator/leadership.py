"""Which of several operators acts: the one that holds a Lease of our own. The others watch, and take over when it has run out.

Clocks of two machines are never compared: a Lease has run out for somebody who has seen it unchanged for its whole time by a
monotonic clock of their own. Its holder ceases to act well before that, and every write of the Lease is a compare-and-swap.
The Lease saves calls and keeps a paused leader from acting on old plans; that no harm is done rests on it nowhere: two that act at
once (a clock may stand still with its machine) are kept apart by the compare-and-swap before every effect, as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from spottune_operator import logs
from spottune_operator.cluster import ClusterError, NotFound
from spottune_operator.tasks import cancelled

Json = dict[str, Any]

LEASE = "spottune-operator"
LEASE_SECONDS = 15.0
_ACTING = 2 / 3
"""Share of its time for which the holder acts after a renewal; the rest is for what is still on its way to the API server."""
_RENEWAL = 1 / 5
"""Share of its time between two renewals."""
_RETRY = 1 / 15

_log = logs.get(__name__)


@dataclass(frozen=True)
class Seen:
    """The Lease as it was read last."""

    holder: str
    """Empty: its holder gave it back."""
    seconds: float
    """Its time, as its holder wrote it."""
    since: float
    """When this version of it was first seen, by the reader's own monotonic clock."""


@dataclass(frozen=True)
class Acquire:
    """Nobody holds it (any more): try to take it."""


@dataclass(frozen=True)
class Renew:
    """It is one's own."""


@dataclass(frozen=True)
class Wait:
    """Another one holds it, for so many seconds at least."""

    seconds: float


Decision = Acquire | Renew | Wait


def decide(lease: Seen | None, me: str, now: float) -> Decision:
    """What to do about the Lease. `lease`: None if there is none. `now`: of the same clock as `lease.since`. Pure."""
    if lease is None or not lease.holder:
        return Acquire()
    if lease.holder == me:
        return Renew()
    left = lease.since + lease.seconds - now
    return Wait(left) if left > 0 else Acquire()


class Leases(Protocol):
    """What is done to the API server's Lease objects. Raises `ClusterError` and nothing else."""

    async def get_lease(self, namespace: str, name: str) -> Json: ...

    async def put_lease(self, lease: Json) -> Json:
        """Write the Lease if it still has its resourceVersion; without one, make it if there is none."""
        ...


class Leadership:
    """One operator's part in the election.

    `me` tells this operator from the others that may run beside it. A process that takes the place of a dead one (a container
    that was started again in its pod) bears its name and goes on at once.
    """

    def __init__(
        self,
        leases: Leases,
        *,
        namespace: str,
        me: str,
        seconds: float = LEASE_SECONDS,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        heard: Callable[[float], None] = lambda now: None,
    ) -> None:
        """`heard` is called with the monotonic time whenever the API server has answered about the Lease."""
        self._leases = leases
        self._namespace = namespace
        self._me = me
        self._seconds = seconds
        self._monotonic = monotonic
        self._wall = wall
        self._heard = heard
        self._seen: tuple[str, float] = ("", 0.0)
        """The version that was read last, and when it was first seen."""
        self._until = float("-inf")

    def leads(self) -> bool:
        """May this operator act now? Safe to ask from any thread."""
        return self._monotonic() < self._until

    async def run(self, term: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Stand for election until cancelled. `term` is begun whenever this operator comes to lead, and cancelled when it no longer does."""
        acting: asyncio.Task[None] | None = None
        try:
            while True:
                pause = await self.once()
                if self.leads() and acting is None:
                    _log.info("leading", lease=f"{self._namespace}/{LEASE}", me=self._me)
                    acting = asyncio.create_task(term())
                elif not self.leads() and acting is not None:
                    _log.warning("leading no more", lease=f"{self._namespace}/{LEASE}", me=self._me)
                    await cancelled((acting,))
                    acting = None
                await _pause(pause, acting)
        finally:
            if acting is not None:
                await cancelled((acting,))

    async def once(self) -> float:
        """One round: read the Lease, and take or renew it if it is to be had. Returns the seconds until the next."""
        led, left = self.leads(), self._until - self._monotonic()
        try:
            # A leader that hears nothing learns in time that it leads no more.
            async with asyncio.timeout(left if led else None):
                return await self._round()
        except ClusterError as error:
            _log.warning("the Lease is not to be had", error=f"{type(error).__name__}: {error}")
        except TimeoutError:
            _log.warning("the Lease has run out", lease=f"{self._namespace}/{LEASE}", me=self._me)
        return self._seconds * _RETRY

    async def resign(self) -> None:
        """Give the Lease back, if it is ours, so that nobody has to wait for its end. Best effort."""
        if not self.leads():
            return
        self._until = float("-inf")
        with contextlib.suppress(ClusterError):
            lease = await self._leases.get_lease(self._namespace, LEASE)
            if _holder(lease) == self._me:
                await self._leases.put_lease(lease | {"spec": lease["spec"] | {"holderIdentity": ""}})

    async def _round(self) -> float:
        lease = await self._read()
        now = self._monotonic()
        self._heard(now)
        decision = decide(None if lease is None else self._sight(lease, now), self._me, now)
        if isinstance(decision, Wait):
            self._until = float("-inf")
            return min(decision.seconds, self._seconds * _RENEWAL)
        # Counted from before the write: whoever sees it, sees it later.
        await self._leases.put_lease(self._written(lease, taken=isinstance(decision, Acquire)))
        self._until = now + self._seconds * _ACTING
        return self._seconds * _RENEWAL

    async def _read(self) -> Json | None:
        try:
            return await self._leases.get_lease(self._namespace, LEASE)
        except NotFound:
            return None

    def _sight(self, lease: Json, now: float) -> Seen:
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, now)
        spec = lease.get("spec") or {}
        return Seen(_holder(lease), float(spec.get("leaseDurationSeconds") or self._seconds), self._seen[1])

    def _written(self, lease: Json | None, *, taken: bool) -> Json:
        old = (lease or {}).get("spec") or {}
        now = datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = old | {"holderIdentity": self._me, "leaseDurationSeconds": round(self._seconds), "renewTime": now}
        if taken:
            spec |= {"acquireTime": now, "leaseTransitions": int(old.get("leaseTransitions") or 0) + 1}
        if lease is not None:
            return lease | {"spec": spec}
        metadata = {"name": LEASE, "namespace": self._namespace}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def _holder(lease: Json) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


async def _pause(seconds: float, acting: asyncio.Task[None] | None) -> None:
    """A term that ends by itself is a defect, and ends the process with it."""
    if acting is None:
        await asyncio.sleep(seconds)
        return
    done, _ = await asyncio.wait({acting}, timeout=seconds)
    if done:
        acting.result()
        raise RuntimeError("a term has ended by itself")
