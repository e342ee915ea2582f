"""The running agent: three loops around the pure parts.

`_look` reads the metadata, `_remember` lists the node's trainer pods, `_answer` carries out what `decide` says. They are separate
so that neither a hanging API server nor a hanging metadata service delays what can be done without it.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

from spottune_agent.imds import Imds, ImdsError
from spottune_agent.kube import Kube, KubeError
from spottune_agent.log import Log
from spottune_agent.notice import Interruption, interruptions, merge
from spottune_agent.respond import Done, End, Tell, TrainerPod, decide, due, still_known
from spottune_agent.settings import Settings
from spottune_agent.trainer import TrainerError, tell

_BUSY_SECONDS = 1.0
"""Time between two tries while something is announced."""
_STALE_SECONDS = 60.0
"""A loop that has not come round for so long hangs: the kubelet should start the agent anew."""
_WORKERS = 8
"""Pods that are dealt with at once; a node has about as many trainers as accelerators."""


@dataclass
class _Known:
    """Shared by the loops under one lock."""

    interruptions: list[Interruption] = field(default_factory=list)
    pods: list[TrainerPod] = field(default_factory=list)
    listed_under: list[Interruption] = field(default_factory=list)
    """What was due when the list that `pods` comes from was begun."""
    told: set[tuple[str, tuple[str, str]]] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    recorded: set[tuple[str, tuple[str, str]]] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, float] = field(default_factory=dict)
    """When each loop last came round, monotonic seconds."""


class Agent:
    """Watches one node until `stop`."""

    def __init__(
        self, settings: Settings, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._wall, self._monotonic = settings, wall, monotonic
        self._imds = Imds(settings.imds_url)
        self._kube = Kube(settings.api_url, settings.token_file, settings.ca_file)
        self._log = Log()
        self._known = _Known()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._list_now, self._answer_now = threading.Event(), threading.Event()
        self._instance = ""

    def run(self) -> None:
        """Run until `stop` is called."""
        self._log.info("AgentStarted", imds=self._settings.imds_url, api=self._settings.api_url)
        loops = [threading.Thread(target=self._repeat, args=(step,), daemon=True) for step in (self._look, self._remember)]
        for thread in loops:
            thread.start()
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="answer") as pool:
            self._repeat(lambda: self._answer(pool), name="_answer")
        self._log.info("AgentStopped")

    def _repeat(self, step: Callable[[], None], name: str = "") -> None:
        name = name or step.__name__
        while not self._stopped.is_set():
            try:
                step()
            except Exception:  # a loop that ends would leave the node without notices, silently
                self._log.exception("Unexpected", loop=name)
                self._stopped.wait(_BUSY_SECONDS)
            with self._lock:
                self._known.rounds[name.strip("_")] = self._monotonic()

    def stop(self) -> None:
        """Let `run` return after the round that is under way."""
        self._stopped.set()
        self._list_now.set()
        self._answer_now.set()

    def health(self) -> tuple[bool, dict[str, object]]:
        """Whether every loop comes round, and what is known, for `/healthz`."""
        now = self._monotonic()
        with self._lock:
            rounds = dict(self._known.rounds)
            details: dict[str, object] = {
                "node": self._settings.node,
                "instance": self._instance,
                "pods": {f"{pod.namespace}/{pod.name}": pod.address for pod in self._known.pods},
                "interruptions": [f"{item.kind}: {item.key}" for item in self._known.interruptions],
                "problems": dict(self._known.problems),
            }
        hanging = sorted(name for name, at in rounds.items() if now - at > _STALE_SECONDS + 2 * self._settings.list_seconds)
        details["hanging"] = hanging
        return not hanging, details

    def _problem(self, what: str, why: str) -> None:
        """Note that `what` fails (or, with an empty `why`, works); only changes are logged."""
        with self._lock:
            before = self._known.problems.get(what, "")
            if why:
                self._known.problems[what] = why
            else:
                self._known.problems.pop(what, None)
        if why and not before:
            self._log.warning("Failing", what=what, why=why)
        elif before and not why:
            self._log.info("WorksAgain", what=what)

    # --- the metadata ------------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        look = self._imds.look()
        for path in sorted(set(look.problems) | set(self._failing_paths())):
            self._problem(f"imds:{path}", look.problems.get(path, ""))
        now = self._wall()
        seen = interruptions(self._instance_name(), look.readings, now)
        with self._lock:
            known = self._known.interruptions
            self._known.interruptions = merge(still_known(known, seen, now), seen)
            news = [item for item in self._known.interruptions if item not in known]
        for item in news:
            left = None if item.deadline is None else round(item.deadline - now, 1)
            fields = {"kind": item.kind, "source": item.source, "key": item.key, "instance": item.instance}
            self._log.warning("InterruptionAnnounced", **fields, deadline=item.deadline, seconds_left=left)
        if news:
            self._answer_now.set()
            self._list_now.set()
        # Jitter: the nodes of a fleet must not ask in step.
        self._stopped.wait(self._settings.poll_seconds * random.uniform(0.75, 1.25))  # noqa: S311

    def _failing_paths(self) -> list[str]:
        with self._lock:
            return [what.removeprefix("imds:") for what in self._known.problems if what.startswith("imds:")]

    def _instance_name(self) -> str:
        """The instance's id; the node's name until it can be read, and then for good, because it is part of an event's identity."""
        if not self._instance:
            try:
                self._instance = self._imds.instance_id()
            except ImdsError:
                self._instance = self._settings.node
        return self._instance

    # --- the node's pods ---------------------------------------------------------------------------------------------------------

    def _remember(self) -> None:
        self._list_now.clear()
        with self._lock:
            announced = due(self._known.interruptions, self._wall())
        try:
            pods = self._kube.trainer_pods(self._settings.node)
        except KubeError as error:
            # The last list stays: its addresses are what the trainers are told by while the API server is away.
            self._problem("api:list", str(error))
        else:
            self._problem("api:list", "")
            self._replace_pods(pods, announced)
            if self._busy():
                self._answer_now.set()
        self._list_now.wait(_BUSY_SECONDS if self._busy() else self._settings.list_seconds)

    def _replace_pods(self, pods: list[TrainerPod], announced: list[Interruption]) -> None:
        """Take over a list that was begun when this was due, and forget all that was noted of pods that are no more."""
        uids = {pod.uid for pod in pods}
        names = {name for pod in pods for name in (_trainer_problem(pod), _delete_problem(pod))}
        with self._lock:
            known = self._known
            known.pods, known.listed_under = pods, announced
            known.told = {key for key in known.told if key[0] in uids}
            known.ended &= uids
            known.recorded = {key for key in known.recorded if key[0] in uids}
            known.problems = {what: why for what, why in known.problems.items() if what.startswith(("imds:", "api:")) or what in names}

    def _busy(self) -> bool:
        now = self._wall()
        with self._lock:
            return any(item.deadline is not None for item in due(self._known.interruptions, now))

    # --- the answer --------------------------------------------------------------------------------------------------------------

    def _answer(self, pool: ThreadPoolExecutor) -> None:
        self._answer_now.clear()
        by_pod = [list(group) for _, group in groupby(self._due(), key=lambda action: action.pod.uid)]
        list(pool.map(self._carry_out, by_pod))
        # An announcement wakes at once; the time-out is for retries and for maintenance that comes due.
        self._answer_now.wait(_BUSY_SECONDS)

    def _due(self) -> list[Tell | End]:
        with self._lock:
            done = Done(frozenset(self._known.told), frozenset(self._known.ended))
            known, pods, under = list(self._known.interruptions), list(self._known.pods), list(self._known.listed_under)
        return decide(known, pods, under, done, now=self._wall(), margin=self._settings.margin_seconds)

    def _carry_out(self, actions: list[Tell | End]) -> None:
        """The actions of one pod, in order. A failure is logged and tried again in the next round."""
        for action in actions:
            try:
                if isinstance(action, Tell):
                    self._tell(action)
                else:
                    self._end(action)
            except Exception:  # one pod's surprise must not keep the others from being told
                self._log.exception("Unexpected", pod=action.pod.name, namespace=action.pod.namespace)

    def _tell(self, action: Tell) -> None:
        pod, what = action.pod, _trainer_problem(action.pod)
        try:
            tell(pod.address, self._settings.trainer_port, action.request)
        except TrainerError as error:
            self._problem(what, str(error))
            return
        self._problem(what, "")
        with self._lock:
            self._known.told.add((pod.uid, action.interruption.identity))
        self._log.info("TrainerTold", namespace=pod.namespace, pod=pod.name, source=action.request.source, deadline=action.request.deadline)
        if action.interruption.deadline is None:
            self._record(
                pod,
                action.interruption,
                "RebalanceRecommended",
                "the risk of an interruption has risen: the trainer was asked to commit, and stays",
            )

    def _end(self, action: End) -> None:
        pod, what = action.pod, _delete_problem(action.pod)
        try:
            found = self._kube.delete_pod(pod, action.grace_seconds)
        except KubeError as error:
            self._problem(what, str(error))
            return
        self._problem(what, "")
        with self._lock:
            self._known.ended.add(pod.uid)
        self._log.info("PodEnded", namespace=pod.namespace, pod=pod.name, found=found, grace_seconds=action.grace_seconds)
        interruption = action.interruption
        message = (
            f"{self._instance} goes away ({interruption.kind}, {interruption.source}): pod deleted with {action.grace_seconds} s to commit"
        )
        self._record(pod, interruption, "InterruptionNotice", message)

    def _record(self, pod: TrainerPod, interruption: Interruption, reason: str, message: str) -> None:
        """An event for people; nothing depends on it, so it is tried once."""
        key = (pod.uid, interruption.identity)
        with self._lock:
            if key in self._known.recorded:
                return
            self._known.recorded.add(key)
        # The same name after a restart of the agent: the same event, recorded once.
        name = f"{pod.name}.{hashlib.sha256(repr((pod.uid, interruption.key)).encode()).hexdigest()[:16]}"
        try:
            self._kube.record_event(pod, name=name, reason=reason, message=message, node=self._settings.node, at=self._wall())
        except KubeError as error:
            self._log.warning("EventNotRecorded", pod=pod.name, namespace=pod.namespace, why=str(error))


def _trainer_problem(pod: TrainerPod) -> str:
    return f"trainer:{pod.namespace}/{pod.name}"


def _delete_problem(pod: TrainerPod) -> str:
    return f"delete:{pod.namespace}/{pod.name}"
