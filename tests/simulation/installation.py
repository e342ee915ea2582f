"""A whole installation in virtual time: operators with all their loops, an unreliable network to the API server, kubelets, nodes, notices.

What runs of the product: watch handlers, work queue, executor, resync, poll, notice desk, planner. Everything else is a model. Chance comes from one
seed, and from nothing else: what happens to a call depends on the seed, the caller, the call and how often it was made.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from spottune_contract.failpoint import FailpointError
from spottune_contract.labels import JOB
from spottune_contract.progress import CheckpointRequest, Progress
from spottune_operator.api.v1alpha1 import FineTuneJobStatus
from spottune_operator.cluster import ClusterError, Throttled, Unavailable
from spottune_operator.executor import Clocks, Executor
from spottune_operator.handlers import Kind, hear
from spottune_operator.health import Health
from spottune_operator.main import Complaints
from spottune_operator.manifests import TrainerDefaults
from spottune_operator.metrics import Metrics
from spottune_operator.notices.desk import NoticeDesk
from spottune_operator.notices.sqs import TooEarly
from spottune_operator.observe import classify
from spottune_operator.planner.types import Settings
from spottune_operator.polling import Poll
from spottune_operator.rounds import Resync
from spottune_operator.trainers import Unreachable
from spottune_operator.view import JobKey, View
from spottune_operator.workqueue import WorkQueue
from tests.fixtures.history import check_transition
from tests.simulation.cluster_model import Json, Process, World, clone, owner

BASE = 1_800_000_000.0
SETTINGS = Settings(cluster="sim")
NODES = ("n1", "n2", "n3")
TIMEOUT = 30.0
"""Seconds after which a client gives a request up; what it asked for may still happen."""

acting: ContextVar[SimOperator] = ContextVar("acting")


class Killed(BaseException):
    """The operator process is dead: nothing of it goes on."""


@dataclass(frozen=True)
class Fault:
    """What shall happen, once: at the `nth` pass of a failpoint (`O1`…) or of a kind of call (`create pod`…)."""

    point: str
    action: str
    """`crash before`, `crash after`, `error` or `hang`."""
    nth: int


class LiveWorld(World):
    """The cluster model on the event loop's clock, with machines that have instance ids and pods that have addresses."""

    @property
    def now(self) -> float:  # type: ignore[override]
        return BASE + asyncio.get_running_loop().time()

    @now.setter
    def now(self, value: float) -> None: ...

    def add_node(self, name: str, zone: str = "z1") -> None:
        super().add_node(name, zone)
        self.nodes[name]["spec"] = {"providerID": f"aws:///{zone}/i-{int(self.new_uid('i').rpartition('-')[2]):08x}"}
        self._touch(self.nodes[name])

    def start(self, pod: Json) -> None:
        super().start(pod)
        pod["status"]["podIP"] = "198.19.0." + pod["metadata"]["uid"].rpartition("-")[2]


@dataclass
class SimOperator:
    """One operator process."""

    site: Installation
    number: int
    view: View = field(default_factory=View)
    dead: bool = False
    dies_after_call: bool = False
    thawed: asyncio.Event = field(default_factory=asyncio.Event)
    live: dict[str, set[str]] = field(default_factory=dict)
    """Pods that might have trained when this operator last listed a job's pods, by job."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def boot(self) -> None:
        """Everything that `main.operate` builds."""
        site, loop = self.site, asyncio.get_running_loop()
        self.thawed.set()
        metrics, clocks = Metrics(), Clocks(wall=lambda: site.world.now, monotonic=loop.time)
        cluster, trainers = SimCluster(self), SimTrainers(self)
        defaults = TrainerDefaults(cluster="sim", image="trainer")
        executor = Executor(
            cluster,
            trainers,  # type: ignore[arg-type]
            self.view,
            defaults=defaults,
            settings=SETTINGS,
            metrics=metrics,
            clocks=clocks,
        )
        queue = WorkQueue[JobKey](executor.consider, on_failure=Complaints(executor), chance=lambda: 0.5)
        health = Health(started=loop.time())
        resync = Resync(cluster, self.view, executor, queue, health, metrics, clocks, lambda: True)
        desk = NoticeDesk(cluster, trainers, self.view, queue, metrics, wall=lambda: site.world.now)
        loops: list[Coroutine[Any, Any, None]] = [
            queue.run(),
            resync.run(),
            Poll(self.view, trainers, queue, metrics, clocks).run(),  # type: ignore[arg-type]
            self._read_notices(desk, resync.complete),
            self._watch(queue, health),
        ]
        token = acting.set(self)
        self.tasks = [loop.create_task(self._guarded(work)) for work in loops]
        acting.reset(token)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        with contextlib.suppress(Killed):
            await work

    def die(self) -> None:
        """SIGKILL. Another process takes its place after a while."""
        if self.dead:
            return
        self.dead = True
        self.thawed.set()
        for task in self.tasks:
            task.cancel()
        delay = self.site.chance("restart", self.number).uniform(1, 20)
        asyncio.get_running_loop().call_later(delay, self.site.start_operator)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later: meanwhile the world goes on."""
        self.thawed.clear()
        asyncio.get_running_loop().call_later(seconds, self.thawed.set)

    async def passable(self) -> None:
        await self.thawed.wait()
        if self.dead:
            raise Killed

    async def _read_notices(self, desk: NoticeDesk, listed: asyncio.Event) -> None:
        """`NoticeQueue` in small: a message is deleted once it was handled, and comes again if it was not."""
        await listed.wait()
        while True:
            await asyncio.sleep(1)
            await self.passable()
            for body in list(self.site.messages):
                with contextlib.suppress(TimeoutError, TooEarly, ClusterError, FailpointError):
                    async with asyncio.timeout(15):
                        await desk.handle(body)
                    self.site.hit("O8")
                    await self.passable()
                    self.site.delete_message(body)

    async def _watch(self, queue: WorkQueue[JobKey], health: Health) -> None:
        """What a watch tells: late, in another order, twice, or not at all."""
        known: dict[tuple[Kind, str], Json] = {}
        loop = asyncio.get_running_loop()

        def tell(kind: Kind, event: str, document: Json) -> None:
            if not self.dead and self.thawed.is_set():
                hear(kind, event, document, self.view, queue, health)

        while True:
            await asyncio.sleep(2)
            await self.passable()
            there: dict[tuple[Kind, str], Json] = {("pod", name): p for name, p in self.site.world.pods.items()}
            there |= {("node", name): n for name, n in self.site.world.nodes.items()}
            there |= {("job", name): j for name, j in self.site.world.jobs.items()}
            for (kind, name), document in there.items():
                if known.get((kind, name)) != document:
                    told = known[kind, name] = clone(document)
                    chance = self.site.chance("watch", self.number, kind, name)
                    for _ in range(chance.choice((0, 1, 1, 1, 1, 2))):
                        loop.call_later(chance.choice((0.0, 0.1, 2.0, 20.0)), tell, kind, "MODIFIED", told)
            for gone in [key for key in known if key not in there]:
                delay = self.site.chance("gone", self.number, gone).choice((0.0, 5.0))
                loop.call_later(delay, tell, gone[0], "DELETED", known.pop(gone))


class SimCluster:
    """The operator's `Cluster` port over an unreliable network."""

    def __init__(self, operator: SimOperator) -> None:
        self._operator = operator
        self._world = operator.site.world

    async def pages_of_jobs(self) -> AsyncIterator[list[Json]]:
        yield await self._call("list jobs", "", lambda: [self._world.api_get_job(name) for name in self._world.jobs])

    async def get_job(self, namespace: str, name: str) -> Json:
        return await self._call("get job", name, lambda: self._world.api_get_job(name))

    async def replace_status(self, job: Json, status: Json) -> Json:
        return await self._call("write status", job["metadata"]["name"], lambda: self._world.api_replace_status(job, status))

    async def list_pods(self, namespace: str | None = None, job: str | None = None, *, node: str | None = None) -> list[Json]:
        def run() -> list[Json]:
            if job is not None:
                self._operator.live[job] = self._operator.site.live_pods()
            return self._world.api_list_pods(job, node)

        return await self._call("list pods", job or "", run)

    async def pages_of_pods(self) -> AsyncIterator[list[Json]]:
        yield await self.list_pods()

    async def get_pod(self, namespace: str, name: str) -> Json:
        return await self._call("get pod", name, lambda: self._world.api_get_pod(name))

    async def create_pod(self, manifest: Json) -> Json:
        site, operator = self._operator.site, self._operator

        def run() -> Json:
            pod = self._world.api_create_pod(manifest)
            site.check_create(operator, pod)
            return pod

        return await self._call("create pod", manifest["metadata"]["name"], run)

    async def delete_pod(self, namespace: str, name: str, *, uid: str, grace_seconds: int | None) -> None:
        await self._call("delete pod", name, lambda: self._world.api_delete_pod(name, uid, grace_seconds))

    async def list_nodes(self) -> list[Json]:
        return await self._call("list nodes", "", lambda: clone(list(self._world.nodes.values())))

    async def create_event(self, event: Json) -> None:
        await self._call("create event", event["metadata"]["name"], lambda: None)

    async def patch_event(self, namespace: str, name: str, patch: Json) -> Json:
        return await self._call("patch event", name, dict)

    async def _call(self, name: str, target: str, run: Callable[[], Any]) -> Any:
        operator, site = self._operator, self._operator.site
        await operator.passable()
        chance = site.chance("call", operator.number, name, target)
        fault = site.reached(name)
        if fault == "crash before":
            operator.die()
            raise Killed
        outcome = {"crash after": "answered", "error": "lost after", "hang": "late"}.get(fault) or site.weather(chance)
        await asyncio.sleep(chance.uniform(0.001, 0.05))
        await operator.passable()
        if outcome == "throttled":
            raise Throttled("too many requests")
        if outcome == "lost before":
            raise Unavailable("connection refused")
        if outcome == "late":
            asyncio.get_running_loop().call_later(chance.uniform(1, 60), _late, site, run)
            await asyncio.sleep(TIMEOUT)
            await operator.passable()
            raise Unavailable("timed out")
        result = site.witnessed(run)
        if fault == "crash after" or operator.dies_after_call:
            operator.die()
            raise Killed
        await asyncio.sleep(chance.uniform(0.001, 0.05))
        await operator.passable()
        if outcome == "lost after":
            raise Unavailable("500 after the effect")
        return result


def _late(site: Installation, run: Callable[[], Any]) -> None:
    with contextlib.suppress(ClusterError, AssertionError):
        site.witnessed(run)


class SimTrainers:
    """The operator's way to trainers."""

    def __init__(self, operator: SimOperator) -> None:
        self._operator = operator

    async def progress(self, ip: str) -> Progress:
        await self._operator.passable()
        await asyncio.sleep(0.01)
        world = self._operator.site.world
        pod = next((p for p in world.pods.values() if p["status"].get("podIP") == ip), None)
        process = world.process_of(pod) if pod is not None else None
        if pod is None or process is None or not process.alive or not world.reachable(pod):
            raise Unreachable("no answer")
        return world.report(process)

    async def ask_checkpoint(self, ip: str, request: CheckpointRequest) -> None:
        await self._operator.passable()
        await asyncio.sleep(0.01)


@dataclass
class Installation:
    """Operators and everything around them."""

    seed: int
    fault: Fault | None = None
    bad_weather: float = 0.05
    """Share of calls that go wrong by themselves while faults last."""
    faults_until: float = 150.0
    world: LiveWorld = field(default_factory=lambda: LiveWorld(total_steps=6))
    operators: list[SimOperator] = field(default_factory=list)
    messages: dict[str, frozenset[str]] = field(default_factory=dict)
    """Notices in the queue, each with the UIDs of the pods that ran on its machine when it was sent."""
    fired: bool = False
    passes: Counter[str] = field(default_factory=Counter)
    bad: set[str] = field(default_factory=set)
    """Jobs whose trainer ends with exit code 20."""
    verdicts: dict[tuple[str, int], str] = field(default_factory=dict)
    broken: str = ""
    """The first promise that was broken: an operator cannot be told, it would take the error for one of its own."""
    _drawn: Counter[tuple[object, ...]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.world.on_status = self.check_status

    def chance(self, *what: object) -> random.Random:
        """Chance for the next of these."""
        self._drawn[what] += 1
        return random.Random(f"{self.seed}/{what}/{self._drawn[what]}")

    @property
    def stormy(self) -> bool:
        return asyncio.get_running_loop().time() < self.faults_until

    def weather(self, chance: random.Random) -> str:
        if not self.stormy or chance.random() >= self.bad_weather:
            return "answered"
        return chance.choice(("lost before", "lost after", "throttled", "late"))

    def witnessed(self, run: Callable[[], Any]) -> Any:
        """The effect of a call; a promise that it breaks is remembered."""
        try:
            return run()
        except AssertionError as error:
            self.broken = self.broken or str(error)
            raise

    # -- the one fault ---------------------------------------------------------------------------------------------------

    def reached(self, point: str) -> str:
        """What shall happen at this pass of `point`; empty for nothing."""
        self.passes[point] += 1
        if self.fault is None or self.fired or self.fault.point != point or self.passes[point] < self.fault.nth:
            return ""
        self.fired = True
        return self.fault.action

    def hit(self, name: str) -> None:
        """The failpoint of the product, as `contract.failpoint.hit`."""
        action = self.reached(name)
        if not action:
            return
        operator = acting.get()
        if action == "crash before":
            operator.die()
            raise Killed
        if action == "crash after":
            operator.dies_after_call = True
        elif action == "error":
            raise FailpointError(name)
        else:
            operator.freeze(self.chance("hang").choice((5.0, 40.0, 90.0, 400.0)))

    # -- operators -------------------------------------------------------------------------------------------------------

    def start_operator(self) -> None:
        operator = SimOperator(self, len(self.operators))
        self.operators.append(operator)
        operator.boot()

    def live_pods(self) -> set[str]:
        world = self.world
        return {
            p["metadata"]["uid"]
            for p in world.pods.values()
            if classify(p, world.nodes.get(p["spec"].get("nodeName", "")), world.now, SETTINGS).live
        }

    def check_status(self, job: Json, after: Json) -> None:
        """What holds at every write, whoever makes it and however late."""
        old, new = FineTuneJobStatus.parse(job.get("status")), FineTuneJobStatus.model_validate(after)
        check_transition(old, new, job["metadata"]["uid"], self.verdicts)

    def check_create(self, operator: SimOperator, pod: Json) -> None:
        """No pod is made beside one of the same job that may still train, as far as the maker could know."""
        mine = {p["metadata"]["uid"] for p in self.world.pods.values() if owner(p) == owner(pod)} - {pod["metadata"]["uid"]}
        known = operator.live.get(pod["metadata"]["labels"][JOB], set())
        assert not mine & known & self.live_pods(), f"a second pod: {pod['metadata']['name']}"

    # -- kubelets and trainers ---------------------------------------------------------------------------------------------

    async def kubelets(self) -> None:
        """Scheduler, kubelets, trainers and garbage collection, every second a little."""
        while True:
            await asyncio.sleep(1)
            for pod in list(self.world.pods.values()):
                chance = self.chance("pod", pod["metadata"]["uid"])
                if pod["metadata"]["name"] in self.world.pods and chance.random() < 0.5:
                    self._advance(pod, chance)
            for process in list(self.world.running()):
                chance = self.chance("process", process.pod_uid)
                if chance.random() < 0.4:
                    self._train(process, chance)
            if self.chance("gc").random() < 0.3:
                self.world.collect_garbage()

    def _advance(self, pod: Json, chance: random.Random) -> None:
        world = self.world
        process = world.process_of(pod)
        if "deletionTimestamp" in pod["metadata"]:
            if world.reachable(pod):
                world.reap(pod, commits=chance.random() < 0.8, seen=chance.random() < 0.5)
        elif not pod["spec"].get("nodeName"):
            ready = [n for n, node in sorted(world.nodes.items()) if node["status"]["conditions"][0]["status"] == "True"]
            if ready:
                world.schedule(pod, chance.choice(ready))
        elif process is None and pod["status"]["phase"] == "Pending" and world.reachable(pod):
            world.start(pod)

    def _train(self, process: Process, chance: random.Random) -> None:
        world = self.world
        if not process.claimed:
            world.claim(process)
        elif process.job_uid in self.bad:
            world.exit(process, 20)
        elif process.step >= world.total_steps:
            world.finish(process)
        else:
            world.train(process)
            if chance.random() < 0.4:
                world.commit(process, "interval")

    # -- what goes wrong by itself -----------------------------------------------------------------------------------------

    async def nodes_come_and_go(self) -> None:
        while self.stormy:
            chance = self.chance("nodes")
            await asyncio.sleep(chance.uniform(10, 60))
            name = chance.choice(NODES)
            what = chance.choice(("cut", "dies", "notice", "notice"))
            if what == "cut":
                self.world.set_ready(name, False)
                asyncio.get_running_loop().call_later(chance.choice((20.0, 70.0, 200.0)), self._heal, name)
            elif what == "dies":
                self.world.power_off(name)
                asyncio.get_running_loop().call_later(chance.choice((30.0, 100.0)), self._replace, name)
            else:
                self.announce(name)

    def announce(self, name: str) -> None:
        """A spot notice: the machine goes in two minutes, and another comes."""
        instance = self.world.nodes[name]["spec"]["providerID"].rpartition("/")[2]
        at = datetime.fromtimestamp(self.world.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "version": "0",
            "id": f"{len(self.messages)}-{at}",
            "detail-type": "EC2 Spot Instance Interruption Warning",
            "source": "aws.ec2",
            "account": "123456789012",
            "time": at,
            "region": "us-east-1",
            "resources": [f"arn:aws:ec2:us-east-1a:instance/{instance}"],
            "detail": {"instance-id": instance, "instance-action": "terminate"},
        }
        there = [p for p in self.world.pods.values() if p["spec"].get("nodeName") == name and p["status"]["phase"] == "Running"]
        self.messages[json.dumps(body)] = frozenset(p["metadata"]["uid"] for p in there)
        asyncio.get_running_loop().call_later(120, self._replace, name)

    def delete_message(self, body: str) -> None:
        """Nobody hears of it any more: the pods that it was about have to be on their way out."""
        concerned = self.messages.pop(body, frozenset())
        jobs = {job["metadata"]["uid"] for job in self.world.jobs.values()}
        staying = [
            pod["metadata"]["name"]
            for pod in self.world.pods.values()
            if pod["metadata"]["uid"] in concerned and owner(pod) in jobs
            if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]
        if staying:
            self.broken = self.broken or f"a notice was lost: nobody ends {staying}"

    def _heal(self, name: str) -> None:
        if self.world.nodes[name]["powered"]:
            self.world.set_ready(name, True)

    def _replace(self, name: str) -> None:
        self.world.remove_node(name)
        self.world.add_node(name)
