"""When and how the demo takes a machine away. Deciding is pure; `carry_out` does it through the local cloud."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from localcloud import interruption
from localcloud.home import Home


class Kind(StrEnum):
    NOTICE = "notice"
    """An interruption notice on IMDS and in the queues, then the power goes off."""
    POWER_OFF = "power-off"
    """No notice at all: everything on the node dies at once."""


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


def at_random(total_steps: int, seed: int, count: int = 2) -> tuple[Kill, ...]:
    """`count` kills of random kinds at random steps, far enough apart that each meets another attempt. A function of the seed."""
    if total_steps < 4 * count:
        raise ValueError(f"{count} kills need a job of at least {4 * count} steps, this one has {total_steps}")
    dice = random.Random(seed)  # noqa: S311  (moments to kill at, no secrets)
    span = total_steps // (count + 1)
    kills = []
    for number in range(count):
        start = 1 + number * (span + 1)
        kills.append(Kill(dice.randint(start, start + span - 2), dice.choice(tuple(Kind)), dice.choice((20, 30, 45))))
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


def carry_out(home: Home, node: str, kill: Kill) -> str:
    """Do it to `node`; returns the sentence that the screen shows."""
    if kill.kind is Kind.POWER_OFF:
        interruption.power_off(home, node)
        return f"power of {node} cut, nobody was told"
    given = interruption.interrupt(home, node, notice_seconds=kill.notice_seconds)
    return f"interruption notice for {node}: power goes off at {given.action_time:%H:%M:%S} UTC"
