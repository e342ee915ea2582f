"""The kinds of a drill, each a function that does it and tells what was done. What it changes for a while it puts back, however it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from spottune_cli.drill import localnode
from spottune_cli.drill.card import Before, Seen
from spottune_cli.drill.cluster import Cluster
from spottune_cli.errors import Exit, Refusal
from spottune_contract.notice import grace_seconds
from spottune_contract.progress import CheckpointRequest, Progress

LOOK_SECONDS = 0.5
SAY_EVERY_SECONDS = 10.0
KILL = """
import os, signal
print("armed", flush=True)
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid()):
        try:
            with open(f"/proc/{name}/stat") as stat:
                parent = stat.read().rpartition(")")[2].split()[1]
            if parent == "0":
                os.kill(int(name), signal.SIGKILL)
        except (OSError, IndexError):
            pass
"""
"""In the pod's PID namespace the first process of a container has no parent. Number 1 is the sandbox, which is not ours to kill."""
KILL_SECONDS = 20.0
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()
    print("open")
except OSError as error:
    print(type(error).__name__)
"""
ENFORCED_WITHIN_SECONDS = 8.0
OLD_POD_SECONDS = 60.0


@dataclass
class Scene:
    """Where a drill takes place, and how it speaks."""

    cluster: Cluster
    before: Before
    job: Mapping[str, Any]
    say: Callable[[str], None]
    deadline: float
    """Monotonic seconds."""
    left: str = "nothing was changed"
    """In which state things are if it ended now, for people."""

    def until(self, look: Callable[[], bool], what: str, seconds: float | None = None) -> bool:
        """Look until it is so, saying what is waited for; False if it is not in time. Without `seconds` the drill's own time is the limit."""
        began = said = time.monotonic()
        self.say(f"waiting for {what}")
        while not look():
            now = time.monotonic()
            if now > self.deadline:
                raise Refusal(Exit.VIOLATION, f"{what}: not within --timeout; {self.left}")
            if seconds is not None and now - began > seconds:
                return False
            if now - said >= SAY_EVERY_SECONDS:
                said = now
                self.say(f"waiting for {what}, {now - began:.0f} s")
            time.sleep(LOOK_SECONDS)
        return True

    def hold(self, seconds: float, what: str) -> None:
        """Stay as it is for a while."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, f"the end of {seconds:.0f} s {what}")


def notice(scene: Scene, seconds: float) -> Seen:
    """What the node agent does about an interruption notice: the trainer is told, then its pod is deleted with the time that is left."""
    cluster, before = scene.cluster, scene.before
    began = cluster.now()
    deadline = began + seconds
    cluster.tell(before.pod, CheckpointRequest(source="drill-notice", deadline=deadline))
    scene.left = f"the trainer of pod {before.pod} was asked for a commit, nothing else"
    grace = grace_seconds(deadline, now=cluster.now())
    cluster.delete(before.pod, before.pod_uid, grace)
    scene.left = _goes_on(before, "its pod was deleted")
    return Seen(f"the trainer was told that {seconds:.0f} s are left, its pod deleted with {grace} s to commit; the machine stays", began)


def no_notice(scene: Scene) -> Seen:
    """The trainer dies by SIGKILL, without a word, and its pod vanishes as on a machine that lost power."""
    cluster, before = scene.cluster, scene.before
    began = cluster.now()
    scene.left = _goes_on(before, "its trainer may have been killed")
    ended, told = cluster.execute(before.pod, "python3", "-c", KILL, seconds=KILL_SECONDS)
    if not ended or told.strip() != "armed":
        raise Refusal(
            Exit.UNREACHABLE,
            f"the trainer of pod {before.pod} could not be killed ({told.strip()[-200:] or 'python3 did not run in its container'})",
        )
    # At once, before its exit code is seen: the end of a machine has none, and a crash would spend the job's failure budget.
    cluster.delete(before.pod, before.pod_uid, 0)
    scene.left = _goes_on(before, "its trainer was killed")
    return Seen("the kernel killed the trainer (SIGKILL) without a word, then its pod was deleted at once; the machine stays", began)


def rebalance(scene: Scene) -> Seen:
    """The trainer is told of a risk: it commits and stays."""
    cluster, before = scene.cluster, scene.before
    heard = _notice_at(cluster.progress(before.pod))
    began = cluster.now()
    cluster.tell(before.pod, CheckpointRequest(source="drill-rebalance"))
    scene.left = f"the trainer of pod {before.pod} was asked for a commit, and trains on"
    return committed_and_stayed(scene, began, heard, "the trainer was asked for a commit, as after a rebalance recommendation")


def committed_and_stayed(scene: Scene, began: float, heard: float, done: str) -> Seen:
    """Wait for the commit that answers a recommendation. `heard`: `notice_at` before it."""
    cluster, before = scene.cluster, scene.before
    found: list[Progress] = []

    def committed() -> bool:
        told = cluster.progress(before.pod)
        if told is None or told.notice_at == heard or told.log is None or told.log.last_commit is None:
            return False
        found[:] = [told]
        return told.log.last_commit.step >= before.step

    scene.until(committed, "the commit")
    pod = cluster.pod(before.pod)
    if pod is None or pod["metadata"]["uid"] != before.pod_uid:
        raise Refusal(Exit.VIOLATION, f"pod {before.pod} did not stay")
    log = found[0].log
    assert log is not None
    assert log.last_commit is not None
    took = log.last_commit.timings.get("notice_to_commit") if log.last_commit.reason == "rebalance" else None
    what = f"step {log.last_commit.step} is committed" if took is not None else f"step {log.last_commit.step} was committed already"
    return Seen(done, began, took, f"the same pod on the same node; {what}")


def cut(scene: Scene, seconds: float) -> Seen:
    """The trainer loses its network for a while: by a NetworkPolicy where the cluster enforces them, on the local cluster by its node's link."""
    cluster, before = scene.cluster, scene.before
    host, port = _store(scene.job)
    if _connects(scene, host, port) != "open":
        raise Refusal(Exit.USAGE, f"the trainer cannot reach {host}:{port} even now: there is nothing to cut")
    began = cluster.now()
    name = f"spottune-drill-{before.pod}"
    with _policy(scene, name):
        what = f"{host}:{port} to be out of the trainer's reach"
        enforced = scene.until(lambda: _connects(scene, host, port) != "open", what, ENFORCED_WITHIN_SECONDS)
        if enforced:
            scene.hold(seconds, "without network")
    if enforced:
        return _after(scene, Seen(f"a NetworkPolicy ({name}) took all network from the trainer for {seconds:.0f} s", began))
    message = (
        f"NetworkPolicy {name} took no effect: the trainer still reached {host}:{port}. The network plugin does not enforce NetworkPolicies, "
        "or another one that selects the pod allows it (a policy can only add to what others allow)"
    )
    if not localnode.is_local(before.node):
        raise Refusal(Exit.USAGE, f"{message}; `kubectl get networkpolicy -n {before.namespace}` lists them. The policy is removed")
    scene.say(f"{message}; {before.node} is a node of the local cluster: its link is cut instead")
    began = cluster.now()
    with _node(scene, "cut", "heal"):
        scene.hold(seconds, f"of {before.node} without network")
    return _after(scene, Seen(f"the link of {before.node} was cut for {seconds:.0f} s (localcloud)", began))


def pause(scene: Scene, seconds: float) -> Seen:
    """The machine with the trainer is frozen for a while, then goes on; only the local cluster can do that to a machine."""
    before = scene.before
    if not localnode.is_local(before.node):
        raise Refusal(
            Exit.USAGE,
            f"node {before.node} cannot be frozen: no right in a cluster allows that, and a kubelet that is not frozen with the trainer would "
            "end it before it met its successor. On the local cluster (run it in the checkout that started it) pause works; here `--kind cut` comes nearest",
        )
    began = scene.cluster.now()
    with _node(scene, "pause", "resume"):
        scene.hold(seconds, f"of {before.node} frozen")
    return _after(scene, Seen(f"{before.node} with everything on it was frozen for {seconds:.0f} s (localcloud)", began))


def _after(scene: Scene, seen: Seen) -> Seen:
    """The trainer is back: it goes on, if nobody took its place, or it ends."""
    cluster, before = scene.cluster, scene.before
    codes: list[int] = []
    answers: list[Progress] = []

    def decided() -> bool:
        pod = cluster.pod(before.pod)
        if pod is None or pod["metadata"]["uid"] != before.pod_uid:
            return True
        states = (pod.get("status") or {}).get("containerStatuses") or [{}]
        ended = (states[0].get("state") or {}).get("terminated")
        if ended:
            codes[:] = [int(ended.get("exitCode", -1))]
            return False  # until it is swept away
        told = cluster.progress(before.pod)
        answers[:] = [told] if told else []
        return "deletionTimestamp" not in pod["metadata"] and told is not None and told.step > before.step + 1 and not told.notice_at

    gone = scene.until(decided, "the old trainer to go on or to end", OLD_POD_SECONDS)
    if gone and answers and not codes and cluster.pod(before.pod) is not None:
        return Seen(seen.done, seen.began, None, f"nobody had taken its place: the same trainer goes on, at step {answers[0].step}")
    word = {10: "10: it had yielded", 11: "11: fenced, as it must be", 30: "30: it could not commit any more"}
    end = f"exit code {word.get(codes[0], str(codes[0]))}" if codes else "its pod was gone before its exit code could be read"
    return Seen(
        seen.done, seen.began, old_end=f"{end}; `spottune verify {before.job} -n {before.namespace}` proves that nothing of it counts"
    )


@contextmanager
def _policy(scene: Scene, name: str) -> Iterator[None]:
    cluster, before = scene.cluster, scene.before
    scene.left = f"remove the policy: kubectl delete networkpolicy {name} -n {before.namespace}"
    try:
        cluster.deny(name, before.pod, before.pod_uid, before.job, before.epoch)
        yield
    finally:
        cluster.allow(name)
        scene.left = "the policy is removed; the job goes on by itself"


@contextmanager
def _node(scene: Scene, verb: str, back: str) -> Iterator[None]:
    node = scene.before.node
    scene.left = f"put it back: python -m localcloud node {back} {node}"
    try:
        localnode.do(verb, node)
        yield
    finally:
        localnode.do(back, node)
        scene.left = f"{node} runs again (python -m localcloud node {back}); the job goes on by itself"


def _connects(scene: Scene, host: str, port: int) -> str:
    return scene.cluster.execute(scene.before.pod, "python3", "-c", CONNECT, host, str(port), seconds=8)[1].strip()


def _store(job: Mapping[str, Any]) -> tuple[str, int]:
    checkpoint = job["spec"]["checkpoint"]
    endpoint = urlsplit(checkpoint.get("endpoint") or f"https://s3.{checkpoint.get('region', 'us-east-1')}.amazonaws.com")
    return endpoint.hostname or "", endpoint.port or (443 if endpoint.scheme == "https" else 80)


def _notice_at(told: Progress | None) -> float:
    return told.notice_at if told is not None else 0.0


def _goes_on(before: Before, what: str) -> str:
    return f"{what}; the operator goes on with the job by itself: spottune watch {before.job} -n {before.namespace}"
