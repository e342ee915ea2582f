"""Machines that went off without a word: found within half a minute, long before Kubernetes says NotReady.

Two ways of hearing must both be silent: the trainer's own HTTP server, which `Poll` asks anyway, and the Lease that the node's kubelet renews
every ten seconds. If most nodes are silent, it is rather us, or the API server, who hear nothing: then nobody is judged.
A wrong judgement costs one attempt and no more: the old trainer, if it lives, is fenced by the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from spottune_operator import logs
from spottune_operator.cluster import ClusterError, NotFound
from spottune_operator.executor import Clocks
from spottune_operator.leadership import Leases
from spottune_operator.planner.statuses import at
from spottune_operator.view import JobKey, PodPlace, View
from spottune_operator.workqueue import WorkQueue

NODE_LEASES = "kube-node-lease"
LAPSED_SECONDS = 22.0
"""A Lease that is older than this was not renewed twice (the kubelet does it every 10 s)."""
LOOK_SECONDS = 2.5
FEW_NODES = 3
"""With so few nodes or fewer, all of them may be off at once."""

_log = logs.get(__name__)


class Silence:
    """Looks at the Leases of nodes whose trainers do not answer."""

    def __init__(self, leases: Leases, view: View, queue: WorkQueue[JobKey], clocks: Clocks) -> None:
        self._leases = leases
        self._view = view
        self._queue = queue
        self._clocks = clocks

    async def run(self, seconds: float = LOOK_SECONDS) -> None:
        """Until cancelled."""
        while True:
            await self.once()
            await asyncio.sleep(seconds)

    async def once(self) -> None:
        """Judge every node that is silent now."""
        doubtful = suspects(self._view.pods.values(), self._view.silent)
        off = {node for node in doubtful if await self._lapsed(node)}
        news = off - self._view.off
        self._view.off = off
        for node in news:
            _log.warning("node silent", node=node, seconds=LAPSED_SECONDS)
            for job in self._view.jobs_on(node):
                self._queue.add(job)

    async def _lapsed(self, node: str) -> bool:
        try:
            lease = await self._leases.get_lease(NODE_LEASES, node)
        except NotFound:
            # The node is being deleted, or it is none that renews one: its pod's end will be told in another way.
            return False
        except ClusterError as error:
            _log.debug("Lease not read", node=node, error=str(error))
            return node in self._view.off
        renewed = at((lease.get("spec") or {}).get("renewTime") or "")
        return bool(renewed) and self._clocks.wall() - renewed > LAPSED_SECONDS


def suspects(places: Collection[PodPlace], silent: Mapping[str, float]) -> set[str]:
    """Nodes all of whose running trainers are silent, none if that is most of the nodes that we have trainers on. Pure."""
    running = [place for place in places if place.running and place.node]
    nodes = {place.node for place in running}
    quiet = nodes - {place.node for place in running if place.uid not in silent}
    return quiet if len(nodes) <= FEW_NODES or 2 * len(quiet) <= len(nodes) else set()
