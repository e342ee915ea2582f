"""What to do about the announced interruptions. Pure: a list of actions from what is known.

Per pod the trainer is told first (it can start to save at once, and this needs no API server), then its pod is deleted with the
time that is left, so that the way through SIGTERM is open even if nobody listened to the first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from spottune_agent.notice import Interruption
from spottune_contract.notice import grace_seconds
from spottune_contract.progress import CheckpointRequest

FORGET_SECONDS = 300.0
"""A machine that is still there this long after its announced end, with the announcement gone, lives on (hibernated and resumed)."""


@dataclass(frozen=True)
class TrainerPod:
    """A trainer pod of this node, as it was last listed."""

    namespace: str
    name: str
    uid: str
    address: str
    """Pod IP; empty while it has none."""
    ending: bool
    """It bears a deletion timestamp: somebody has asked for its end."""
    finished: bool
    """All of its containers have ended."""


@dataclass(frozen=True)
class Tell:
    """Send `request` to the trainer of `pod`."""

    pod: TrainerPod
    interruption: Interruption
    request: CheckpointRequest


@dataclass(frozen=True)
class End:
    """Delete `pod`, precondition its UID."""

    pod: TrainerPod
    interruption: Interruption
    grace_seconds: int
    """At least 1: 0 would be a forced deletion that does not wait for the process."""


@dataclass(frozen=True)
class Done:
    """What has been carried out already, by pod UID and interruption identity."""

    told: Collection[tuple[str, tuple[str, str]]] = frozenset()
    ended: Collection[str] = frozenset()


def due(interruptions: Iterable[Interruption], now: float) -> list[Interruption]:
    """Those of which the trainers are to be told by now (wall clock seconds)."""
    return [item for item in interruptions if item.act_at <= now]


def decide(
    interruptions: Iterable[Interruption],
    pods: Iterable[TrainerPod],
    listed_under: Collection[Interruption],
    done: Done,
    *,
    now: float,
    margin: float,
) -> list[Tell | End]:
    """Actions that are due, pod by pod, in the order in which they must be carried out.

    `listed_under` is what was due when the list of `pods` was begun, `now` wall clock seconds, `margin` seconds of the time left that
    are kept for the kubelet. An empty list means that all is done, or waits for a younger list of pods.
    """
    announced = due(interruptions, now)
    fatal = min((item for item in announced if item.deadline is not None), key=lambda item: item.deadline or 0.0, default=None)
    actions: list[Tell | End] = []
    for pod in pods:
        if pod.finished:
            continue
        if pod.address:
            actions += [
                Tell(pod, item, CheckpointRequest(source=item.source, deadline=item.deadline))
                for item in announced
                if (pod.uid, item.identity) not in done.told
            ]
        elif fatal not in listed_under:
            # It may have got its address since it was listed, and would be ended untold.
            continue
        # A pod that is ending already has its SIGTERM; a second deletion could only shorten the time that it was given.
        if fatal is not None and not pod.ending and pod.uid not in done.ended:
            assert fatal.deadline is not None
            actions.append(End(pod, fatal, grace_seconds(fatal.deadline, now=now, margin=margin)))
    return actions


def still_known(known: Iterable[Interruption], seen: Iterable[Interruption], now: float) -> list[Interruption]:
    """Known interruptions without those that are long over and no longer announced."""
    announced = {item.identity for item in seen}
    return [item for item in known if item.deadline is None or item.identity in announced or item.deadline + FORGET_SECONDS > now]
