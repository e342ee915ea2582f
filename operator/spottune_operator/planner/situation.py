"""What was observed, sorted: every pod gets exactly one role before any rule looks at it."""

from __future__ import annotations

from dataclasses import dataclass

from spottune_contract.runspec import seconds
from spottune_operator.api.reasons import Reason
from spottune_operator.api.v1alpha1 import FineTuneJobStatus
from spottune_operator.planner.budget import active_seconds
from spottune_operator.planner.types import Notice, Observed, ObservedPod


@dataclass(frozen=True)
class Situation:
    """An observation with its pods sorted and its reports already taken over into `status`."""

    observed: Observed
    status: FineTuneJobStatus
    """The observed status plus what pods and trainers reported: the start of every answer."""
    current: ObservedPod | None
    """The pod of the current attempt while that is not accounted."""
    impostor: ObservedPod | None
    """A pod of the current attempt's name with another UID than the one that was seen: the recorded one is gone."""
    garbage: tuple[ObservedPod, ...]
    """Pods of attempts that are over or accounted."""
    later: tuple[ObservedPod, ...]
    """Pods of attempts that the status does not know of yet: it was restored from a backup, or read from a cache."""

    @property
    def now(self) -> float:
        return self.observed.now

    @property
    def unaccounted(self) -> bool:
        """The current attempt has no recorded end."""
        return self.status.attempt > self.status.accounted

    @property
    def in_the_way(self) -> ObservedPod | None:
        """A pod of an attempt that is over and that may still train: the next attempt waits for it, for thrift."""
        return next((pod for pod in self.garbage if pod.state.live and not self._hands_over(pod)), None)

    @property
    def unwanted(self) -> Reason | None:
        """Why its user wants no trainer to run now; None if one shall."""
        spec = self.observed.spec
        if spec is None:
            return None
        if spec.cancel:
            return Reason.CANCELLED
        if spec.suspend:
            return Reason.SUSPENDED
        limit = seconds(spec.max_duration) if spec.max_duration is not None else None
        return Reason.MAX_DURATION if limit is not None and active_seconds(self.status, self.now) >= limit else None

    @property
    def interruption(self) -> Notice | None:
        """A fresh notice that takes away the machine of the current pod."""
        return self._notice("Interruption")

    @property
    def recommendation(self) -> Notice | None:
        """A recommendation to leave the machine of the current pod."""
        return self._notice("Rebalance")

    def _hands_over(self, pod: ObservedPod) -> bool:
        """It was asked to end, and its successor waits for it at the claim."""
        handover = self.status.handover
        return handover is not None and handover.epoch == pod.epoch and pod.deleting

    def _notice(self, kind: str) -> Notice | None:
        if self.current is None or not self.current.node:
            return None
        fresh = (
            n
            for n in self.observed.notices
            if n.kind == kind
            and n.node == self.current.node
            # A machine that outlived its deadline was not meant, or was spared: what started later is left alone.
            and (n.deadline == 0 or n.deadline > max(self.now - self.observed.settings.stale_notice, self.current.created_at))
        )
        # The earliest deadline decides; a notice that tells none comes last.
        return min(fresh, key=lambda n: (n.deadline or float("inf"), n.source), default=None)


def sort(observed: Observed) -> Situation:
    """Give every pod its role."""
    status = observed.status
    unaccounted = status.attempt > status.accounted
    mine = [p for p in observed.pods if unaccounted and p.epoch == status.attempt and p.rank == 0]
    current = next((p for p in mine if not status.pod_uid or p.uid == status.pod_uid), None)
    impostor = next((p for p in mine if current is None or p.uid != current.uid), None)
    roles = {p.uid for p in (current,) if p is not None}
    garbage = tuple(p for p in observed.pods if p.epoch <= status.attempt and p.uid not in roles)
    later = tuple(p for p in observed.pods if p.epoch > status.attempt)
    return Situation(observed, status, current, impostor, garbage, later)


def next_epoch(situation: Situation) -> int:
    """The number of the next attempt: above everything that was ever heard of."""
    pods = max((p.epoch for p in situation.observed.pods), default=0)
    return max(situation.status.attempt, situation.status.log.max_epoch, pods) + 1
