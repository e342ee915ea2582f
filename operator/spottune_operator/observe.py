"""From the API's own JSON to `Observed`: every pod is classified here, once, before anything is decided. Pure and total."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from spottune_contract.exitcodes import PodEnd
from spottune_contract.labels import EPOCH, JOB, POOL, RANK, TRAINER_CONTAINER
from spottune_contract.progress import Progress, Termination
from spottune_operator import images
from spottune_operator.api.v1alpha1 import FineTuneJobSpec, FineTuneJobStatus, PoolStatus
from spottune_operator.notices.taints import announced
from spottune_operator.planner.statuses import at, clip
from spottune_operator.planner.types import Notice, Observed, ObservedPod, Obstacle, PodState, Settings

Json = Mapping[str, Any]

ZONE = "topology.kubernetes.io/zone"
ERROR_LIMIT = 400


def observe(
    job: Json,
    pods: Iterable[Json],
    nodes: Mapping[str, Json],
    *,
    now: float,
    progress: Mapping[str, Progress] | None = None,
    notices: Iterable[Notice] = (),
    obstacle: Obstacle | None = None,
    pools: tuple[PoolStatus, ...] = (),
    silent: Mapping[str, float] | None = None,
    off: Collection[str] = (),
    settings: Settings | None = None,
    live: bool = True,
) -> Observed:
    """All that a decision about `job` may depend on.

    `pods`: those with the job's label in its namespace; pods of another owner UID are left out. `nodes` by name; one that is
    not in it is not known, which decides nothing; what its taints announce is added to `notices`. `progress` by pod UID.
    `pools`: see `pools.shared`. `silent` and `off`: as in `View`. `now`: wall clock seconds.
    """
    settings = settings or Settings()
    metadata = job["metadata"]
    spec, spec_error = read_spec(job.get("spec"))
    mine = (pod for pod in pods if owned(pod, metadata["uid"], metadata["name"]))
    notices = tuple(notices)
    seen = [
        observe_pod(
            pod, nodes, metadata["uid"], progress or {}, now, settings, machine_off=_machine_off(pod, silent or {}, off, notices, now)
        )
        for pod in mine
    ]
    places = {pod.node for pod in seen if pod.node}
    tainted = tuple(notice for place in sorted(places) for notice in announced(place, nodes.get(place) or {}))
    return Observed(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        uid=metadata["uid"],
        generation=int(metadata.get("generation", 0)),
        now=now,
        deleting="deletionTimestamp" in metadata,
        spec=spec,
        spec_error=spec_error,
        status=FineTuneJobStatus.parse(job.get("status")),
        pods=tuple(sorted(seen, key=lambda pod: (pod.epoch, pod.rank, pod.uid))),
        live=live,
        notices=tuple(n for n in notices if n.node in places) + tainted,
        obstacle=obstacle,
        pools=pools,
        settings=settings,
    )


def read_spec(document: object) -> tuple[FineTuneJobSpec | None, str]:
    """The spec, or None and what is wrong with it, field by field."""
    try:
        return FineTuneJobSpec.model_validate(document), ""
    except ValidationError as error:
        items = error.errors(include_url=False, include_input=False)
        details = "; ".join(f"spec.{'.'.join(str(p) for p in i['loc'])}: {i['msg'].removeprefix('Value error, ')}" for i in items[:5])
        return None, clip(details, ERROR_LIMIT)


def owned(pod: Json, job_uid: str, job: str) -> bool:
    """Whether the pod is an attempt of exactly this job: our UID as controller, our labels, a readable epoch and rank."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    controller = any(o.get("uid") == job_uid and o.get("controller") for o in metadata.get("ownerReferences") or ())
    numbers = (labels.get(EPOCH, ""), labels.get(RANK, "0"))
    return controller and labels.get(JOB) == job and all(n.isascii() and n.isdigit() and len(n) < 10 for n in numbers)


def observe_pod(
    pod: Json,
    nodes: Mapping[str, Json],
    job_uid: str,
    progress: Mapping[str, Progress],
    now: float,
    settings: Settings,
    *,
    machine_off: str = "",
) -> ObservedPod:
    """One pod, classified."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    node_name = (pod.get("spec") or {}).get("nodeName") or ""
    node = nodes.get(node_name)
    container = _container(status)
    state = (container.get("state") or {}) if container else {}
    waiting = state.get("waiting") or {}
    terminated = state.get("terminated") or {}
    scheduled = _condition(status, "PodScheduled")
    epoch = int(labels[EPOCH])
    report = progress.get(metadata["uid"])
    lost = bool(machine_off) or _unready_for(node, now) > settings.unreachable_grace
    termination = Termination.parse(terminated.get("message"))
    return ObservedPod(
        name=metadata["name"],
        uid=metadata["uid"],
        epoch=epoch,
        rank=int(labels.get(RANK, "0")),
        state=_classify(pod, now, settings, lost=lost),
        node=node_name,
        pool=annotations.get(POOL, ""),
        zone=((node or {}).get("metadata") or {}).get("labels", {}).get(ZONE, ""),
        ip=status.get("podIP") or "",
        created_at=at(metadata.get("creationTimestamp") or ""),
        placed_at=at(scheduled.get("lastTransitionTime") or "") if scheduled.get("status") == "True" else 0.0,
        running_at=at((state.get("running") or {}).get("startedAt") or terminated.get("startedAt") or ""),
        ended_at=at(terminated.get("finishedAt") or ""),
        deleting="deletionTimestamp" in metadata,
        ends_by=at(metadata.get("deletionTimestamp") or ""),
        node_silent=_unready_for(node, now) > 0,
        machine_off=machine_off,
        end=_end(pod, terminated, lost=lost),
        termination=termination if termination is not None and termination.epoch == epoch else None,
        unschedulable=clip(scheduled.get("message") or "no node fits", ERROR_LIMIT)
        if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
        else "",
        waiting_reason=waiting.get("reason") or "",
        waiting_message=clip(waiting.get("message") or "", ERROR_LIMIT),
        image=images.resolved(_image(pod), (container or {}).get("imageID") or ""),
        progress=report if report is not None and (report.job_uid, report.epoch) == (job_uid, epoch) else None,
        last_words="" if termination is not None else last_words(terminated.get("message") or ""),
    )


def last_words(text: str) -> str:
    """What a container without a message of ours said last, at most `ERROR_LIMIT` characters. The kubelet cuts the log anywhere.

    Of a trainer's own log the last line's event, of other output the last lines: a traceback's end says more than its beginning.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    try:
        told = json.loads(lines[-1])
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict) and told.get("event"):
        said = [str(told[name]) for name in ("event", "error", "message") if told.get(name)]
        return clip("The last line of its log: " + ": ".join(said), ERROR_LIMIT)
    end = clip("\n".join(lines[1:] if len(lines) > 1 and len(text) > ERROR_LIMIT else lines), len(text))
    return end if len(end) <= ERROR_LIMIT else "…" + end[1 - ERROR_LIMIT :]


def classify(pod: Json, node: Json | None, now: float, settings: Settings) -> PodState:
    """Exactly one state for any pod, as its node alone shows it."""
    return _classify(pod, now, settings, lost=_unready_for(node, now) > settings.unreachable_grace)


def _classify(pod: Json, now: float, settings: Settings, *, lost: bool) -> PodState:
    metadata, status = pod["metadata"], pod.get("status") or {}
    state = (_container(status) or {}).get("state") or {}
    if state.get("terminated") or status.get("phase") in ("Succeeded", "Failed"):
        return PodState.ENDED
    deleting = "deletionTimestamp" in metadata
    overdue = deleting and _overdue_for(metadata, now) > settings.unreachable_grace
    if not (pod.get("spec") or {}).get("nodeName"):
        # Without a node nothing can run: the API server removes such a pod at once, unless somebody's finalizer holds it.
        if overdue:
            return PodState.STUCK
        return PodState.TERMINATING if deleting else PodState.SCHEDULING
    if lost:
        return PodState.LOST
    if overdue:
        return PodState.STUCK
    if deleting:
        return PodState.TERMINATING
    return PodState.RUNNING if state.get("running") else PodState.CREATING


def _machine_off(pod: Json, silent: Mapping[str, float], off: Collection[str], notices: Iterable[Notice], now: float) -> str:
    """Why the machine of a pod is taken to be off; empty if it is not. No single witness is believed: its trainer must be silent, too."""
    node, since = (pod.get("spec") or {}).get("nodeName") or "", silent.get(pod["metadata"]["uid"])
    if not node or since is None:
        return ""
    created = at(pod["metadata"].get("creationTimestamp") or "")
    told = next((n for n in notices if n.kind == "Off" and n.node == node and n.deadline >= created), None)
    if told is not None:
        return f"Machine {told.instance_id or node} is off (told by {told.source}), and its trainer does not answer."
    if node in off:
        return f"Node {node} is off: for {now - since:.0f} s its trainer has not answered, and its kubelet has not renewed its Lease."
    return ""


def _end(pod: Json, terminated: Json, *, lost: bool) -> PodEnd:
    status = pod.get("status") or {}
    disruption = _condition(status, "DisruptionTarget")
    code = terminated.get("exitCode")
    return PodEnd(
        exit_code=code if isinstance(code, int) else None,
        container_reason=terminated.get("reason") or "",
        pod_reason=status.get("reason") or "",
        disruption=(disruption.get("reason") or "Unknown") if disruption.get("status") == "True" else "",
        deleted="deletionTimestamp" in pod["metadata"],
        vanished=lost and not terminated,
    )


def _container(status: Json) -> dict[str, Any] | None:
    return next((c for c in status.get("containerStatuses") or () if c.get("name") == TRAINER_CONTAINER), None)


def _image(pod: Json) -> str:
    """The trainer's image as the pod names it."""
    containers = (pod.get("spec") or {}).get("containers") or ()
    return next((c.get("image") or "" for c in containers if c.get("name") == TRAINER_CONTAINER), "")


def _condition(status: Json, kind: str) -> dict[str, Any]:
    return next((c for c in status.get("conditions") or () if c.get("type") == kind), {})


def _overdue_for(metadata: Json, now: float) -> float:
    """Seconds since a deleted pod should have been gone: the API server writes the end of its grace time as its deletion time."""
    deadline = at(metadata.get("deletionTimestamp") or "")
    return now - deadline if deadline else 0.0


def _unready_for(node: Json | None, now: float) -> float:
    """Seconds since the node was last ready; 0 if it is, or is not known."""
    ready = _condition((node or {}).get("status") or {}, "Ready")
    if not ready or ready.get("status") == "True":
        return 0.0
    since = at(ready.get("lastTransitionTime") or "")
    return now - since if since else 0.0
