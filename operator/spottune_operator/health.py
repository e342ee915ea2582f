"""Is the operator alive, does it see the cluster? `Health` judges (pure), `serve` answers HTTP.

Two ways of hearing of changes are compared: what the live list of the resync shows must also have come by watch. A watch that
owes us something and tells nothing at all for longer than `WATCH_DEAD`, or owes the same for longer than `WATCH_SLOW`, is dead, whatever its task
says of itself, and only a restart brings it back. One that is slow is not: after a start it tells of ten thousand objects, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from spottune_operator.metrics import Metrics
from spottune_operator.view import Key

RESYNC_STUCK = 120.0
"""Seconds without even a try to resync after which the event loop is judged stuck."""
READY_WITHIN = 45.0
"""Seconds that the last complete resync may be old."""
WATCH_DEAD = 60.0
WATCH_SLOW = 600.0


@dataclass
class Health:
    """What is known of our hearing. All times are seconds of one monotonic clock."""

    started: float
    tried: float = 0.0
    """When a resync was last begun."""
    synced: float = 0.0
    """When a resync was last complete; 0 for never."""
    elected: float = 0.0
    """When the API server last answered about the Lease; 0 for never."""
    _seen: dict[Key, str] = field(default_factory=dict)
    _behind: dict[Key, float] = field(default_factory=dict)
    _telling: set[str] = field(default_factory=set)
    """Kinds of which the watch told something since that was last looked at."""
    _told: dict[str, float] = field(default_factory=dict)
    """When that was last seen, by kind."""

    def heard(self, key: Key, version: str) -> None:
        """The watch has told of this resourceVersion."""
        self._seen[key] = version
        self._behind.pop(key, None)
        self._telling.add(key[0])

    def asked(self, now: float) -> None:
        """The Lease was read."""
        self.elected = now

    def forgotten(self, key: Key) -> None:
        """The watch has told that the object is gone."""
        self._seen.pop(key, None)
        self._behind.pop(key, None)

    def trying(self, now: float) -> None:
        self.tried = now

    def listed(self, versions: Mapping[Key, str], now: float) -> None:
        """A live list of everything we watch was complete."""
        self.synced = now
        # When something was told is known to the second or so only if it is asked often; a list comes every ten seconds.
        self.watch_silence(now)
        behind = {key for key, version in versions.items() if self._seen.get(key) != version}
        # An object that changed again since is still behind from the first time on: the watch has said nothing meanwhile.
        self._behind = {key: self._behind.get(key, now) for key in behind}
        for key in self._seen.keys() - versions.keys():
            del self._seen[key]

    def watch_lag(self, now: float) -> float:
        """Seconds for which the watch has owed us the oldest change it owes; 0 for none."""
        return max((now - since for since in self._behind.values()), default=0.0)

    def watch_silence(self, now: float) -> float:
        """Seconds for which a watch that owes us something has told nothing at all; 0 for none."""
        self._told |= dict.fromkeys(self._telling, now)
        self._telling.clear()
        return max((now - max(since, self._told.get(key[0], 0.0)) for key, since in self._behind.items()), default=0.0)

    def alive(self, now: float) -> str:
        """Empty, or why the process should be restarted."""
        if now - max(self.tried, self.started) > RESYNC_STUCK:
            return f"no resync was tried for {now - self.tried:.0f} s"
        if (silence := self.watch_silence(now)) > WATCH_DEAD:
            return f"a watch that owes a change has told nothing for {silence:.0f} s"
        if self.watch_lag(now) > WATCH_SLOW:
            return f"the watch has missed a change for {self.watch_lag(now):.0f} s"
        return ""

    def ready(self, now: float) -> str:
        """Empty, or why this operator could not act now if it led. One that stands by is ready: it would take over."""
        if self.synced == 0.0:
            return "jobs, pods and nodes were not listed yet"
        if now - self.synced > READY_WITHIN:
            return f"the last complete list is {now - self.synced:.0f} s old"
        if now - max(self.elected, self.started) > READY_WITHIN:
            return f"the Lease was not read for {now - max(self.elected, self.started):.0f} s"
        return ""


async def serve(health: Health, metrics: Metrics, *, host: str, port: int, clock: Callable[[], float]) -> web.AppRunner:
    """Serve `/healthz`, `/readyz` and `/metrics`; clean up the returned runner to stop."""

    def verdict(judge: Callable[[float], str]) -> Callable[[web.Request], web.Response]:
        def answer(_request: web.Request) -> web.Response:
            why = judge(clock())
            return web.Response(status=503 if why else 200, text=(why or "ok") + "\n")

        return answer

    def exposition(_request: web.Request) -> web.Response:
        now = clock()
        metrics.resync_age.set(now - health.synced if health.synced else -1.0)
        metrics.watch_lag.set(health.watch_lag(now))
        return web.Response(body=metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def healthz(request: web.Request) -> web.Response:
        return verdict(health.alive)(request)

    async def readyz(request: web.Request) -> web.Response:
        return verdict(health.ready)(request)

    async def metrics_page(request: web.Request) -> web.Response:
        return exposition(request)

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics_page)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
