"""Notices that were heard, by instance, each once; matched to live nodes when somebody looks. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from spottune_operator.notices.eventbridge import CloudEvent, Kind
from spottune_operator.planner.types import Notice

KEPT_SECONDS = 900.0
"""A notice is forgotten this long after it was heard; its machine is gone by then, or was never to go."""
MOST = 10_000
"""More notices than this are not kept: the oldest go."""

_ENDING = {Kind.SPOT_INTERRUPTION, Kind.STATE_CHANGE, Kind.CAPACITY_RESERVATION}
_OFF = {"stopped", "terminated"}
"""States in which nothing of the machine runs any more."""


@dataclass(frozen=True)
class Heard:
    """One notice about one instance."""

    event: CloudEvent
    source: str
    heard_at: float
    """Wall clock seconds."""


_Key = tuple[str, Kind, float]
"""Instance, kind, and the deadline that was told; 0 for none."""


class NoticeBoard:
    """Remembers notices. The same (instance, kind, time) told twice is one notice, so a flood of copies changes nothing."""

    def __init__(self) -> None:
        self._heard: dict[_Key, Heard] = {}
        self._by_instance: dict[str, list[_Key]] = {}

    def __len__(self) -> int:
        return len(self._heard)

    def post(self, event: CloudEvent, source: str, now: float) -> tuple[str, ...]:
        """Remember `event`. Returns the instances for which it is news."""
        self.expire(now)
        news = []
        for instance in event.instances:
            key = (instance, event.kind, event.deadline or 0.0)
            if key not in self._heard:
                self._heard[key] = Heard(event, source, now)
                self._by_instance.setdefault(instance, []).append(key)
                news.append(instance)
        for key in list(self._heard)[: max(0, len(self._heard) - MOST)]:
            self._forget(key)
        return tuple(news)

    def expire(self, now: float) -> None:
        """Forget what is older than `KEPT_SECONDS`."""
        for key in [key for key, heard in self._heard.items() if now - heard.heard_at > KEPT_SECONDS]:
            self._forget(key)

    def about(self, nodes: Mapping[str, Mapping[str, Any]]) -> tuple[Notice, ...]:
        """Notices about machines that are among `nodes` (by name) now. Takes no longer for what was heard of others."""
        if not self._heard:
            return ()
        return tuple(
            Notice(
                node=name,
                kind=announces(heard.event),
                source=heard.source,
                deadline=heard.event.deadline or 0.0,
                instance_id=instance,
                announced_at=heard.event.at,
                heard_at=heard.heard_at,
            )
            for name, instance in ((name, instance_of(node)) for name, node in nodes.items())
            for heard in (self._heard[key] for key in self._by_instance.get(instance, ()))
        )

    def _forget(self, key: _Key) -> None:
        del self._heard[key]
        left = [other for other in self._by_instance.pop(key[0]) if other != key]
        if left:
            self._by_instance[key[0]] = left


def announces(event: CloudEvent) -> Literal["Interruption", "Rebalance", "Off"]:
    """What the event means for its machines; see `Notice.kind`."""
    if event.kind is Kind.STATE_CHANGE and event.action in _OFF:
        return "Off"
    return "Interruption" if event.kind in _ENDING else "Rebalance"


def instance_of(node: Mapping[str, Any]) -> str:
    """EC2 instance of a node, from its providerID `aws:///<zone>/<instance>`; empty for any other node."""
    provider = (node.get("spec") or {}).get("providerID") or ""
    return provider.rpartition("/")[2] if provider.startswith("aws://") else ""
