"""One look at one job: gather live, decide, write the status, act once.

The status write is the commit point: it is a compare-and-swap, it comes before the side effect that it announces, and a crash
anywhere leaves a state from which the next look goes on. At most one side effect per look, then everything is looked at afresh.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import structlog

from spottune_contract.failpoint import hit
from spottune_contract.labels import EPOCH
from spottune_operator import logs
from spottune_operator.api.reasons import Reason
from spottune_operator.api.v1alpha1 import FineTuneJobStatus
from spottune_operator.cluster import (
    AdmissionDenied,
    AlreadyExists,
    Cluster,
    ClusterError,
    Conflict,
    NamespaceTerminating,
    NotFound,
    QuotaExceeded,
    ReferenceMissing,
    Unavailable,
)
from spottune_operator.events import Teller
from spottune_operator.manifests import TrainerDefaults, trainer_pod
from spottune_operator.metrics import Metrics
from spottune_operator.observe import observe
from spottune_operator.planner.ledger import newly_over
from spottune_operator.planner.plan import plan
from spottune_operator.planner.statuses import not_handled
from spottune_operator.planner.types import (
    AskCheckpoint,
    CreatePod,
    DeletePod,
    EventSpec,
    Observed,
    Obstacle,
    ObstacleKind,
    Plan,
    Settings,
)
from spottune_operator.trainers import Trainers, Unreachable
from spottune_operator.view import JobKey, View

Json = dict[str, Any]

AT_ONCE = 0.0
CONFLICT_PAUSE = 0.1
MOST_LOOKS_AT_ONCE = 30
"""A healthy job needs a handful of looks in a row; one that goes on and on is a defect of ours and is set aside."""

_log = logs.get(__name__)


class Unsettled(RuntimeError):
    """The decisions about one job do not come to rest."""


@dataclass(frozen=True)
class Clocks:
    """Wall clock (seconds since 1970) for what people read, monotonic clock for durations."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


class Executor:
    """Looks at jobs, one call per look. Safe beside a second one: all transitions are compare-and-swap."""

    def __init__(
        self,
        cluster: Cluster,
        trainers: Trainers,
        view: View,
        *,
        defaults: TrainerDefaults,
        settings: Settings,
        metrics: Metrics,
        clocks: Clocks,
    ) -> None:
        self._cluster = cluster
        self._trainers = trainers
        self._view = view
        self._defaults = defaults
        self._settings = settings
        self._unhurried = replace(settings, progress_interval=float("inf"))
        self._metrics = metrics
        self._clocks = clocks
        self._teller = Teller(cluster, metrics, clocks.wall)
        self._in_a_row: dict[JobKey, int] = {}

    async def consider(self, key: JobKey) -> float | None:
        """Look at one job, unless what is remembered of it shows nothing to do. Returns as `look`.

        What is remembered may be old, never for long: whatever is news to it has the job considered again. So it can make a look
        late or needless; what is done rests on what the look reads.
        """
        again = AT_ONCE if key in self._in_a_row or key in self._view.doubted else self.remembered(key)
        if again != AT_ONCE:
            self._metrics.looks.labels("nothing_to_do").inc()
            return again
        again = await self.look(key)
        if again is None or again > CONFLICT_PAUSE:
            self._view.doubted.discard(key)
        return again

    def remembered(self, key: JobKey) -> float | None:
        """When to look at a job, judged from what is remembered of it."""
        job = self._view.job(key)
        if job is None:
            return AT_ONCE
        try:
            return self.due(job, self._view.pods_of(key))
        except Exception:
            # The look itself throws again, and there failing is handled.
            return AT_ONCE

    async def look(self, key: JobKey) -> float | None:
        """Look at one job, live. Returns the seconds after which to look again, None for not before something is heard."""
        structlog.contextvars.bind_contextvars(namespace=key.namespace, job=key.name)
        began = self._clocks.monotonic()
        try:
            again = await self._look(key)
        except Exception as error:
            self._in_a_row.pop(key, None)
            self._metrics.looks.labels(type(error).__name__).inc()
            if isinstance(error, ClusterError):
                self._metrics.api_errors.labels(type(error).__name__).inc()
            raise
        finally:
            self._metrics.look_seconds.observe(self._clocks.monotonic() - began)
            structlog.contextvars.clear_contextvars()
        if again == AT_ONCE:
            self._in_a_row[key] = self._in_a_row.get(key, 0) + 1
            if self._in_a_row[key] > MOST_LOOKS_AT_ONCE:
                del self._in_a_row[key]
                raise Unsettled(f"{MOST_LOOKS_AT_ONCE} looks in a row each found something to do")
        else:
            self._in_a_row.pop(key, None)
        return again

    def due(self, job: Json, pods: list[Json]) -> float | None:
        """When to look at a job, judged from this: 0 for at once, None for not before something is heard. No calls and no effects,
        so that ten thousand jobs at rest cost one list of each kind."""
        observed = self._observe(job, pods)
        answer = plan(observed)
        if answer.action is not None or answer.status != observed.status:
            return AT_ONCE
        return answer.requeue_after

    async def explain_failure(self, key: JobKey, error: Exception) -> None:
        """Tell the user of a job that its handling threw: a condition, and an event when that is news. Best effort, never raises."""
        sentence = (
            f"The operator could not handle this job ({type(error).__name__}) and tries again; its pod goes on. See the operator's log."
        )
        try:
            job = await self._cluster.get_job(key.namespace, key.name)
            before = FineTuneJobStatus.parse(job.get("status"))
            after = not_handled(before, sentence, now=self._clocks.wall())
            if after == before:
                return
            written = await self._cluster.replace_status(job, after.document())
            await self._teller.tell(written, [EventSpec("Warning", Reason.INTERNAL, sentence)])
        except Exception as failure:
            # The next failure tries again.
            _log.warning("failure not told", namespace=key.namespace, job=key.name, error=f"{type(failure).__name__}: {failure}")

    def _observe(self, job: Json, pods: Iterable[Json]) -> Observed:
        view, pods = self._view, list(pods)
        nodes = {name: view.nodes[name] for pod in pods if (name := (pod.get("spec") or {}).get("nodeName")) in view.nodes}
        return observe(
            job,
            pods,
            nodes,
            progress=view.progress,
            notices=view.notices.about(nodes),
            obstacle=view.obstacles.get(job["metadata"]["uid"]),
            pools=view.pools,
            silent=view.silent,
            off=view.off,
            now=self._clocks.wall(),
            settings=self._paced(),
            live=True,
        )

    def _paced(self) -> Settings:
        """Without an allowance for it, steps alone are never worth a write; with other news they are written all the same."""
        return self._settings if self._view.tells_steps(self._clocks.monotonic()) else self._unhurried

    async def _look(self, key: JobKey) -> float | None:
        try:
            job = await self._cluster.get_job(key.namespace, key.name)
        except NotFound:
            self._metrics.looks.labels("gone").inc()
            return None
        pods = await self._cluster.list_pods(key.namespace, key.name)
        observed = self._observe(job, pods)
        structlog.contextvars.bind_contextvars(epoch=observed.status.attempt)
        answer = plan(observed)
        self._metrics.looks.labels(answer.rule).inc()
        if answer.status == observed.status:
            if answer.action is None:
                return answer.requeue_after
            if not await self._changed(job):
                await self._act(observed, answer.action)
            return AT_ONCE
        written = await self._write(job, observed.status, answer)
        if written is None:
            return CONFLICT_PAUSE
        try:
            if answer.action is not None:
                await self._act(replace(observed, status=answer.status), answer.action)
        finally:
            # After the effect, which may be urgent; told even if it failed, since the status they are about is written.
            await self._teller.tell(written, answer.events)
        # After an effect, what has become of it is read. After a mere write nothing but the status has changed, and that is known.
        return AT_ONCE if answer.action is not None else self.due(written, pods)

    async def _write(self, job: Json, before: FineTuneJobStatus, answer: Plan) -> Json | None:
        """Swap the status. None if somebody else was faster."""
        after = answer.status
        raises_attempt, accounts = after.attempt > before.attempt, after.accounted > before.accounted
        if raises_attempt:
            hit("O1")
        if accounts:
            hit("O4")
        try:
            written = await self._cluster.replace_status(job, after.document())
        except Conflict:
            self._metrics.status_writes.labels("conflict").inc()
            return None
        self._metrics.status_writes.labels("written").inc()
        for interruption in newly_over(before, after):
            self._metrics.interruption_over(interruption)
        if after.progress_at != before.progress_at:
            self._view.steps.take()
        structlog.contextvars.bind_contextvars(epoch=after.attempt)
        tell = _log.info if after.phase != before.phase or answer.action is not None else _log.debug
        tell("decided", rule=answer.rule, phase=after.phase.value, action=_name(answer.action) or None, **answer.details)
        if raises_attempt:
            hit("O2")
        if accounts:
            hit("O5")
        return written

    async def _changed(self, job: Json) -> bool:
        """Is the job no longer what the decision was made on? Asked before an effect that no status write comes before."""
        metadata = job["metadata"]
        try:
            current = await self._cluster.get_job(metadata["namespace"], metadata["name"])
        except NotFound:
            return True
        return bool(current["metadata"]["resourceVersion"] != metadata["resourceVersion"])

    async def _act(self, observed: Observed, action: CreatePod | DeletePod | AskCheckpoint) -> None:
        outcome = "failed"
        try:
            if isinstance(action, CreatePod):
                outcome = await self._create(observed, action)
            elif isinstance(action, DeletePod):
                outcome = await self._delete(observed.namespace, action)
            else:
                outcome = await self._ask(action)
        finally:
            self._metrics.actions.labels(_name(action), outcome).inc()
        _log.info("acted", action=_name(action), pod=action.pod if isinstance(action, AskCheckpoint) else action.name, outcome=outcome)

    async def _create(self, observed: Observed, action: CreatePod) -> str:
        manifest = trainer_pod(observed, action, self._defaults)
        try:
            await self._cluster.create_pod(manifest)
        except AlreadyExists as error:
            if not await self._is_ours(observed, action):
                return self._refused(observed, action, ObstacleKind.NAME_TAKEN, error)
            outcome = "adopted"
        except QuotaExceeded as error:
            return self._refused(observed, action, ObstacleKind.QUOTA, error)
        except ReferenceMissing as error:
            return self._refused(observed, action, ObstacleKind.MISSING, error)
        except NamespaceTerminating as error:
            return self._refused(observed, action, ObstacleKind.TERMINATING, error)
        except AdmissionDenied as error:
            return self._refused(observed, action, ObstacleKind.DENIED, error)
        except Unavailable as error:
            self._metrics.api_errors.labels(type(error).__name__).inc()
            return self._refused(observed, action, ObstacleKind.FAILING, error)
        else:
            hit("O3")
            outcome = "created"
        self._view.obstacles.pop(observed.uid, None)
        return outcome

    def _refused(self, observed: Observed, action: CreatePod, kind: ObstacleKind, error: ClusterError) -> str:
        before = self._view.obstacles.get(observed.uid)
        count = before.count + 1 if before is not None and before.epoch == action.epoch and before.kind == kind else 1
        self._view.obstacles[observed.uid] = Obstacle(kind, action.epoch, error.message[:1024], self._clocks.wall(), count)
        _log.warning("pod refused", pod=action.name, kind=kind.value, error=error.message[:1024])
        return kind.value

    async def _is_ours(self, observed: Observed, action: CreatePod) -> bool:
        """Does the pod of that name belong to this attempt of this very job, and is nobody ending it?"""
        try:
            pod = await self._cluster.get_pod(observed.namespace, action.name)
        except NotFound:
            return False
        metadata = pod["metadata"]
        owned = any(owner.get("controller") and owner.get("uid") == observed.uid for owner in metadata.get("ownerReferences") or [])
        epoch = (metadata.get("labels") or {}).get(EPOCH)
        return owned and epoch == str(action.epoch) and "deletionTimestamp" not in metadata

    async def _delete(self, namespace: str, action: DeletePod) -> str:
        if action.tell is not None and action.ip and self._view.told.get(action.uid) != action.tell:
            await self._ask(AskCheckpoint(action.name, action.ip, action.tell))
        try:
            await self._cluster.delete_pod(namespace, action.name, uid=action.uid, grace_seconds=action.grace_seconds)
        except NotFound:
            return "gone"
        hit("O6")
        self._view.pod_leaves(namespace, action.name, action.uid)
        return "deleted"

    async def _ask(self, action: AskCheckpoint) -> str:
        try:
            await self._trainers.ask_checkpoint(action.ip, action.request)
        except Unreachable as error:
            _log.info("trainer not told", pod=action.pod, error=str(error))
            return "unreachable"
        return "asked"


def _name(action: CreatePod | DeletePod | AskCheckpoint | None) -> str:
    return type(action).__name__ if action is not None else ""
