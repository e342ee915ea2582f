"""kopf as a trigger: what it hears of jobs, pods and nodes goes into the view and the queue. No decision is made here.

Only `on.event` is used. Handlers of the other kinds, timers and daemons put a finalizer on the user's object, and then it cannot
be deleted while no operator runs; kopf's own patches are unconditional. Events leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import kopf
from kubernetes.aio.client.configuration import Configuration

from spottune_contract.labels import API_VERSION, GROUP, JOB, PLURAL
from spottune_operator.cluster import PAGE
from spottune_operator.health import Health
from spottune_operator.view import JobKey, Kind, View
from spottune_operator.workqueue import WorkQueue

INACTIVE_SECONDS = 75.0
"""A watch without an event or a bookmark (the API server sends one a minute) for this long is opened anew."""
_LONGEST_PAUSE = 3.0
_IDLE_SECONDS = 0.2
"""kopf keeps a task, and with it the whole object that was heard of last, for so long after an object's last event."""


class Patience:
    """Pauses between kopf's tries to reach the API server: short, and without end. kopf gives up for good after a finite list.

    `again` is called whenever a try has failed, just before the next one.
    """

    def __init__(self, again: Callable[[], None]) -> None:
        self._again = again

    def __iter__(self) -> Iterator[float]:
        pause = 0.5
        while True:
            yield pause
            self._again()
            pause = min(_LONGEST_PAUSE, pause * 1.5)


class NoDifferences(kopf.DiffBaseStorage):
    """Nobody asks kopf what has changed in an object; to find out, it would copy the whole of it at every event."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is kept in the objects."""


class NoProgress(kopf.ProgressStorage):
    """No handler of ours has any progress to be kept."""

    def fetch(self, *, key: Any, body: kopf.Body) -> None:
        return None

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Nothing is kept in the objects."""

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Nothing is kept in the objects."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Nothing is kept in the objects."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def configure(settings: kopf.OperatorSettings, again: Callable[[], None]) -> None:
    """Switch off whatever of kopf writes to the cluster or watches more than we need. `again`: see `Patience`."""
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = NoDifferences()
    settings.persistence.progress_storage = NoProgress()
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.networking.error_backoffs = Patience(again)
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    settings.watching.connect_timeout = 5
    settings.watching.inactivity_timeout = INACTIVE_SECONDS
    settings.watching.chunk_size = PAGE
    settings.watching.label_selectors["", "v1", "pods"] = JOB
    settings.queueing.idle_timeout = _IDLE_SECONDS
    settings.queueing.exit_timeout = 0.5
    settings.process.ultimate_exiting_timeout = 20


async def connection(configuration: Configuration) -> kopf.ConnectionInfo:
    """kopf's view of where the API server is: the same as our own client's. The token is read anew at each login."""
    header = await configuration.get_api_key_with_prefix("BearerToken")
    scheme, _, token = (header or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme.capitalize() or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )


def connected(configuration: Configuration, again: Callable[[], None] = lambda: None) -> kopf.OperatorRegistry:
    """A registry of handlers with our settings and access, and with nothing to hear of yet. `again`: see `Patience`."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.startup(registry=handlers)
    async def startup(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings, again)

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await connection(configuration)

    return handlers


def registry(
    configuration: Configuration,
    view: View,
    queue: WorkQueue[JobKey],
    health: Health,
    *,
    cut: Callable[[], None],
    ending: Callable[[], None],
) -> kopf.OperatorRegistry:
    """All handlers, bound to one operator's memory. `cut`: a watch is tried again; `ending`: kopf is about to end."""
    handlers = connected(configuration, cut)

    @kopf.on.cleanup(registry=handlers)
    async def cleanup(**_: Any) -> None:
        ending()

    @kopf.on.event(GROUP, API_VERSION, PLURAL, registry=handlers)
    async def job_event(event: kopf.RawEvent, **_: Any) -> None:
        hear("job", event["type"], dict(event["object"]), view, queue, health)

    @kopf.on.event("", "v1", "pods", labels={JOB: kopf.PRESENT}, registry=handlers)
    async def pod_event(event: kopf.RawEvent, **_: Any) -> None:
        hear("pod", event["type"], dict(event["object"]), view, queue, health)

    @kopf.on.event("", "v1", "nodes", registry=handlers)
    async def node_event(event: kopf.RawEvent, **_: Any) -> None:
        hear("node", event["type"], dict(event["object"]), view, queue, health)

    return handlers


def hear(
    kind: Kind,
    event_type: str | None,
    document: dict[str, Any],
    view: View,
    queue: WorkQueue[JobKey],
    health: Health,
) -> None:
    """Take in what a watch tells of one object, and have every job looked at for which it may change a decision."""
    metadata, gone = document["metadata"], event_type == "DELETED"
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    key = (kind, namespace, name)
    view.heard.add(key)
    if gone:
        health.forgotten(key)
    else:
        health.heard(key, metadata["resourceVersion"])
    if kind == "job":
        _hear_job(JobKey(namespace, name), document, view, queue, gone=gone)
    elif kind == "pod":
        job = view.drop_pod(namespace, name, metadata["uid"]) if gone else view.put_pod(document)
        if job is not None:
            queue.add(job)
    else:
        before = view.nodes.get(name)
        if gone:
            view.nodes.pop(name, None)
        else:
            view.put_node(document)
        if _standing(before) != _standing(view.nodes.get(name)):
            for job in view.jobs_on(name):
                queue.add(job)


def _hear_job(key: JobKey, document: dict[str, Any], view: View, queue: WorkQueue[JobKey], *, gone: bool) -> None:
    if gone:
        view.drop_job(key)
    elif view.put_job(document):
        queue.add(key)


def _standing(node: dict[str, Any] | None) -> Any:
    """What of a node may change a decision: its heartbeat times do not."""
    if node is None:
        return None
    conditions = {condition["type"]: condition["status"] for condition in node["status"]["conditions"]}
    return conditions, node["spec"].get("taints"), "deletionTimestamp" in node["metadata"]
