"""Capacity pools: instance type × zone × capacity type, and which of them the next attempt is sent to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spottune_operator.api.v1alpha1 import POOLS_KEPT, CapacitySpec, PoolStatus
from spottune_operator.planner import backoff

ANY = "*"


@dataclass(frozen=True)
class Pool:
    """Where a pod may be placed. An empty instance type or zone means: any."""

    instance_type: str
    zone: str
    capacity_type: str
    """`spot` or `on-demand`, as in the label `karpenter.sh/capacity-type`."""

    def __str__(self) -> str:
        return f"{self.instance_type or ANY}/{self.zone or ANY}/{self.capacity_type}"

    @classmethod
    def parse(cls, text: str) -> Pool:
        """Read `str(pool)` back. Raises `ValueError` for anything else."""
        parts = text.split("/")
        if len(parts) != 3 or not all(parts):
            raise ValueError(f"{text!r} is not a pool: write <instance type or *>/<zone or *>/<spot or on-demand>")
        instance_type, zone, capacity_type = ("" if part == ANY else part for part in parts)
        return cls(instance_type, zone, capacity_type)


@dataclass(frozen=True)
class Choice:
    """The pool for the next attempt, or when there may be one."""

    pool: Pool | None
    wait: float = 0.0
    """Seconds until the first pool may be tried again; 0 with a pool."""


def candidates(capacity: CapacitySpec) -> tuple[Pool, ...]:
    """All pools that the spec allows, in its order: every zone of the first type, then of the second, …"""
    capacity_type = "spot" if capacity.spot == "Only" else "on-demand"
    return tuple(Pool(t, z, capacity_type) for t in capacity.instance_types or ("",) for z in capacity.zones or ("",))


def choose(capacity: CapacitySpec, states: Iterable[PoolStatus], now: float, others: Iterable[PoolStatus] = ()) -> Choice:
    """The first pool of the spec that is neither out of capacity nor was just interrupted.

    A pool in which this job found no machine is not used before its time. One that was interrupted, or that `others` had trouble
    with (see `shared`), is used if nothing else is left: the one whose trouble is over first. Same input, same answer.
    """
    known = {state.pool: state for state in states}
    heard = {state.pool: state for state in others}

    def trouble_until(pool: Pool) -> float:
        own, theirs = known.get(str(pool)), heard.get(str(pool))
        closed = now + _closed_for(theirs, now) if _closed_for(theirs, now) > 0 else 0.0
        return max(_avoided(own, now), _avoided(theirs, now), closed)

    open_pools = [pool for pool in candidates(capacity) if _closed_for(known.get(str(pool)), now) <= 0]
    if open_pools:
        return Choice(min(open_pools, key=trouble_until))
    return Choice(None, min(_closed_for(known.get(str(pool)), now) for pool in candidates(capacity)))


def shared(troubles: Iterable[PoolStatus], machines: Mapping[str, float], now: float) -> tuple[PoolStatus, ...]:
    """What all jobs together know of pools that are in trouble now: the longest of each kind, by pool.

    `troubles`: of all jobs. `machines`: when any job last got a machine, by pool. A start that failed counts only until then; an
    interruption is not taken back by that.
    """
    known: dict[str, PoolStatus] = {}
    for state in troubles:
        before = known.get(state.pool, state)
        worst = max(before, state, key=lambda s: s.not_before)
        known[state.pool] = worst.model_copy(update={"avoid_until": max(before.avoid_until, state.avoid_until)})
    for pool, state in known.items():
        if machines.get(pool, 0.0) > state.not_before - backoff.of_pool(state.failures):
            known[pool] = state.model_copy(update={"failures": 0, "not_before": 0.0})
    return tuple(known[pool] for pool in sorted(known) if current(known[pool], now))


def current(state: PoolStatus, now: float) -> bool:
    """Whether the trouble is not over yet."""
    return _closed_for(state, now) > 0 or _avoided(state, now) > 0


def elsewhere(capacity: CapacitySpec, states: Iterable[PoolStatus], current: str, now: float) -> bool:
    """Whether another pool than `current` could be tried now."""
    known = {state.pool: state for state in states}
    return any(str(pool) != current and _closed_for(known.get(str(pool)), now) <= 0 for pool in candidates(capacity))


def without_capacity(states: Iterable[PoolStatus], pool: str, now: float) -> tuple[PoolStatus, ...]:
    """`pool` had no machine: leave it alone, longer each time in a row."""
    state = _find(states, pool)
    failures = state.failures + 1
    return _with(states, state.model_copy(update={"failures": failures, "not_before": now + backoff.of_pool(failures)}), now)


def interrupted(states: Iterable[PoolStatus], pool: str, now: float) -> tuple[PoolStatus, ...]:
    """`pool` took a machine away: prefer others for a while."""
    return _with(states, _find(states, pool).model_copy(update={"avoid_until": now + backoff.AVOID_INTERRUPTED}), now)


def had_capacity(states: Iterable[PoolStatus], pool: str) -> tuple[PoolStatus, ...]:
    """`pool` gave a machine: forget its failed starts."""
    return tuple(
        state if state.pool != pool else state.model_copy(update={"failures": 0, "not_before": 0.0})
        for state in states
        if state.pool != pool or state.avoid_until > 0
    )


def _closed_for(state: PoolStatus | None, now: float) -> float:
    if state is None:
        return 0.0
    wait = state.not_before - now
    # A clock that was set back would close the pool for hours: nothing is ever closed for longer than the longest backoff.
    return wait if 0 < wait <= backoff.CAPACITY_MOST else 0.0


def _avoided(state: PoolStatus | None, now: float) -> float:
    return state.avoid_until if state is not None and 0 < state.avoid_until - now <= backoff.AVOID_INTERRUPTED else 0.0


def _find(states: Iterable[PoolStatus], pool: str) -> PoolStatus:
    return next((state for state in states if state.pool == pool), PoolStatus(pool=pool))


def _with(states: Iterable[PoolStatus], changed: PoolStatus, now: float) -> tuple[PoolStatus, ...]:
    """The states with `changed`; what is over for long is forgotten, then what is over first."""
    others = [s for s in states if s.pool != changed.pool and max(s.not_before, s.avoid_until) > now - backoff.CAPACITY_MOST]
    others.sort(key=lambda s: (max(s.not_before, s.avoid_until), s.pool))
    return tuple(sorted([*others[-(POOLS_KEPT - 1) :], changed], key=lambda s: s.pool))
