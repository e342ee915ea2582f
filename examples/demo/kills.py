"""When and how the demo takes a machine away. Deciding is pure; `carry_out` does it through the local cloud."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import get_args

from examples.demo.kube import Kube
from examples.demo.product import NAMESPACE
from localcloud import interruption
from localcloud import node as machines
from localcloud.ec2_events import Action
from localcloud.home import Home

QUEUES_SECONDS = 60
"""A notice that only the operator hears: long enough for one that was killed to be replaced."""
BACK_SECONDS = 60.0
"""A machine that stood still or was cut off is back after so long: its job has moved by then."""


class Kind(StrEnum):
    """In which way the job loses its machine, or its pod."""

    NOTICE = "notice"
    """An interruption notice on IMDS and in the queues, then the power goes off."""
    POWER_OFF = "power-off"
    """No notice at all: everything on the node dies at once."""
    IMDS = "imds only"
    """A notice on IMDS; what EventBridge sent is lost."""
    QUEUES = "queues only"
    """A notice in the queues; IMDS shows nothing."""
    LATE = "late"
    """A notice on IMDS; its message in the queues comes when the power goes off, and once more after that."""
    REPEATED = "repeated"
    """A notice that comes five times over."""
    REBALANCE_FIRST = "rebalance first"
    """A rebalance recommendation, and the notice while the commit for it is under way."""
    REBALANCE_LAST = "rebalance last"
    """The two in the wrong order."""
    STOP = "stop"
    """A notice that the machine stops."""
    POD_DELETED = "pod deleted"
    """Nobody takes the machine: somebody deletes the pod."""
    PAUSE = "pause"
    """The whole machine stands still, and goes on when its job has long moved: what it writes then must not count."""
    CUT = "cut"
    """The machine's network is cut, and comes back when its job has moved."""

    @property
    def told(self) -> bool:
        """Whether the trainer is told in time: then no finished step may be lost."""
        return self not in (Kind.POWER_OFF, Kind.PAUSE, Kind.CUT)


@dataclass(frozen=True)
class Kill:
    """Take the job's node away once it has finished `at_step` optimizer steps."""

    at_step: int
    kind: Kind
    notice_seconds: int = 30
    warn_at_step: int | None = None
    """A rebalance recommendation comes once this many steps are finished; None: none does."""


def usual(total_steps: int) -> tuple[Kill, ...]:
    """The demo's own two: recommendation and notice after a third of the steps, no notice after two thirds."""
    third = total_steps // 3
    return (Kill(third, Kind.NOTICE, warn_at_step=max(1, third - 2)), Kill(2 * third, Kind.POWER_OFF))


def at_random(total_steps: int, seed: int, count: int = 2, kinds: Sequence[Kind] = (Kind.NOTICE, Kind.POWER_OFF)) -> tuple[Kill, ...]:
    """`count` kills, each of one of `kinds`, at random steps, far enough apart that each meets another attempt. A function of the seed."""
    if total_steps < 4 * count:
        raise ValueError(f"{count} kills need a job of at least {4 * count} steps, this one has {total_steps}")
    dice = random.Random(seed)  # noqa: S311  (moments to kill at, no secrets)
    span = total_steps // (count + 1)
    kills = []
    for number in range(count):
        start = 1 + number * (span + 1)
        step, kind, seconds = dice.randint(start, start + span - 2), dice.choice(kinds), dice.choice((20, 30, 45))
        kills.append(Kill(step, kind, QUEUES_SECONDS if kind is Kind.QUEUES else seconds))
    return tuple(kills)


def due(kills: tuple[Kill, ...], done: int, step: int) -> Kill | None:
    """The next kill if its step is reached; `done` counts those that were carried out."""
    return kills[done] if done < len(kills) and step >= kills[done].at_step else None


def warning_due(kills: tuple[Kill, ...], done: int, step: int) -> bool:
    """Whether it is time for the rebalance recommendation that comes before the next kill."""
    warn_at = kills[done].warn_at_step if done < len(kills) else None
    return warn_at is not None and step >= warn_at


def warn(home: Home, node: str) -> str:
    """Recommend to leave `node`; returns the sentence that the screen shows."""
    interruption.rebalance(home, node)
    return f"rebalance recommendation for {node}: an extra commit, the job stays"


def carry_out(home: Home, node: str, pod: str, kill: Kill, kube: Kube) -> str:
    """Do it to `node`, or to the `pod` on it; returns the sentence that the screen shows."""
    if kill.kind is Kind.POWER_OFF:
        interruption.power_off(home, node)
        return f"power of {node} cut, nobody was told"
    if kill.kind is Kind.POD_DELETED:
        kube.kubectl("delete", "pod", pod, "-n", NAMESPACE, "--wait=false")
        return f"pod {pod} deleted"
    if kill.kind in (Kind.PAUSE, Kind.CUT):
        disturb, mend = (machines.pause, machines.resume) if kill.kind is Kind.PAUSE else (machines.cut, machines.heal)
        disturb(home, node)
        _later(BACK_SECONDS, lambda: mend(home, node))
        return f"{node} {'stands still' if kill.kind is Kind.PAUSE else 'cut off'} for {BACK_SECONDS:.0f} s"
    given = _give_notice(home, node, kill)
    return f"interruption notice for {node} ({kill.kind}): power goes off at {given.action_time:%H:%M:%S} UTC"


def _give_notice(home: Home, node: str, kill: Kill) -> interruption.Interruption:
    zone = machines.get(home, node).pool.split("/")[1]
    via: tuple[interruption.Way, ...] = get_args(interruption.Way)
    if kill.kind in (Kind.IMDS, Kind.LATE):
        via = ("imds",)
    elif kill.kind is Kind.QUEUES:
        via = ("queues",)
    action: Action = "stop" if kill.kind is Kind.STOP else "terminate"
    given = interruption.interrupt(home, node, kill.notice_seconds, action, with_rebalance=kill.kind is Kind.REBALANCE_FIRST, via=via)
    if kill.kind is Kind.REBALANCE_LAST:
        interruption.rebalance(home, node)
    copies = {Kind.REPEATED: (0, 0, 1, 5), Kind.LATE: (kill.notice_seconds, kill.notice_seconds + 10)}.get(kill.kind, ())
    for seconds in copies:
        _later(seconds, lambda: interruption.warn(home, given, zone))
    return given


def _later(seconds: float, act: Callable[[], None]) -> None:
    def unless_gone() -> None:
        with suppress(machines.NodeError):
            act()

    # Not a daemon: a machine that stands still at the end of the last run is not left so.
    threading.Timer(seconds, unless_gone).start()
