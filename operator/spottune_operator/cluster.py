"""The Kubernetes API as the operator uses it: one port, one implementation, errors with a meaning.

Objects are the API's own JSON, unparsed; `observe` and `manifests` know their inside. Every call is a fresh request: nothing
here caches, so what is read is what the API server held at that moment.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config

from spottune_contract.labels import API_VERSION, GROUP, JOB, KIND, PLURAL

Json = dict[str, Any]

READ_TIMEOUT = 5.0
"""Seconds without a byte before a request counts as lost: a half-open connection is seen in this time."""
TOTAL_TIMEOUT = 30.0
"""Seconds for a whole request, however slowly it trickles."""
PAGE = 200
"""Objects that a list asks for at once. All pages show one moment: the API server ties them to the version of the first. While one
page is read, nothing else is done: 200 pods are a fiftieth of a second."""

_JOBS = f"/apis/{GROUP}/{API_VERSION}"
_LEASES = "/apis/coordination.k8s.io/v1"


class ClusterError(Exception):
    """A call did not succeed. `message` is the API server's own text where there is one."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class NotFound(ClusterError):
    """404: no such object, or (for a delete) not the one with that UID any more."""


class Conflict(ClusterError):
    """409 on an update: the object has changed since it was read. Look again."""


class AlreadyExists(ClusterError):
    """409 on a create: an object of that name is there. Whose, only a live GET can say."""


class Forbidden(ClusterError):
    """403. The subclasses say which of the API server's several meanings it has."""


class RightsMissing(Forbidden):
    """The operator's role does not allow the call: the remedy is the chart's ClusterRole, no job is to blame."""


class QuotaExceeded(Forbidden):
    """A ResourceQuota of the namespace has no room for the pod. Room may come."""


class ReferenceMissing(Forbidden):
    """Something that the pod names does not exist (yet): its service account or its priority class."""


class NamespaceTerminating(Forbidden):
    """The namespace is being deleted: nothing can be created in it any more."""


class AdmissionDenied(ClusterError):
    """Pod Security, an admission policy or webhook refused this object, or it is invalid (403, 422). Repeating does not help."""


class Throttled(ClusterError):
    """429. `retry_after` seconds were asked for."""

    def __init__(self, message: str, *, status: int = 429, retry_after: float = 1.0) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class NotLeading(ClusterError):
    """The write was not sent: another operator may act by now. What it would have done, the leader finds for itself."""


class Unavailable(ClusterError):
    """The API server could not be reached, did not answer in time, or failed (5xx). What the call did is unknown."""


class Cluster(Protocol):
    """Everything the operator may do to a cluster. Raises `ClusterError` and nothing else."""

    def pages_of_jobs(self) -> AsyncIterator[list[Json]]:
        """All jobs, some at a time; all pages show one moment. A list that cannot be finished raises."""
        ...

    async def get_job(self, namespace: str, name: str) -> Json: ...

    async def replace_status(self, job: Json, status: Json) -> Json:
        """Write `status` if the job still has the resourceVersion and UID of `job`, else raise `Conflict`. Returns the new job."""
        ...

    async def list_pods(self, namespace: str | None = None, job: str | None = None) -> list[Json]:
        """Trainer pods: those with our job label, of one namespace and of one job if given."""
        ...

    def pages_of_pods(self) -> AsyncIterator[list[Json]]:
        """All trainer pods, like `pages_of_jobs`."""
        ...

    async def get_pod(self, namespace: str, name: str) -> Json: ...

    async def create_pod(self, manifest: Json) -> Json: ...

    async def delete_pod(self, namespace: str, name: str, *, uid: str, grace_seconds: int | None) -> None:
        """Ask for the end of exactly the pod with `uid`. `NotFound` if that pod is gone, whatever has its name now."""
        ...

    async def list_nodes(self) -> list[Json]: ...

    async def create_event(self, event: Json) -> None: ...

    async def patch_event(self, namespace: str, name: str, patch: Json) -> Json: ...


async def load_configuration(kubeconfig: str | None) -> Configuration:
    """Where the API server is and how to speak to it: a kubeconfig file if given, else the pod's service account."""
    configuration = Configuration()
    if kubeconfig:
        await load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    else:
        load_incluster_config(client_configuration=configuration)
    return configuration


class KubernetesCluster:
    """`Cluster` on the asyncio side of the official client. Close it when done."""

    leads: Callable[[], bool]
    """Asked before every write but those of the Lease itself."""

    def __init__(self, configuration: Configuration, *, read_timeout: float = READ_TIMEOUT) -> None:
        self.leads = lambda: False
        self._api = ApiClient(configuration)
        self._api.user_agent = "spottune-operator"
        self._timeout = aiohttp.ClientTimeout(total=TOTAL_TIMEOUT, sock_connect=read_timeout, sock_read=read_timeout)

    async def close(self) -> None:
        await self._api.close()

    def pages_of_jobs(self) -> AsyncIterator[list[Json]]:
        return self._pages(f"{_JOBS}/{PLURAL}", api_version=f"{GROUP}/{API_VERSION}", kind=KIND)

    async def get_job(self, namespace: str, name: str) -> Json:
        return await self._call("GET", f"{_JOBS}/namespaces/{namespace}/{PLURAL}/{name}")

    async def replace_status(self, job: Json, status: Json) -> Json:
        metadata = job["metadata"]
        body = {
            "apiVersion": f"{GROUP}/{API_VERSION}",
            "kind": KIND,
            "metadata": {field: metadata[field] for field in ("name", "namespace", "uid", "resourceVersion")},
            "spec": job["spec"],
            "status": status,
        }
        path = f"{_JOBS}/namespaces/{metadata['namespace']}/{PLURAL}/{metadata['name']}/status"
        return await self._write("PUT", path, body=body)

    async def list_pods(self, namespace: str | None = None, job: str | None = None) -> list[Json]:
        path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        selector = f"{JOB}={job}" if job else JOB
        return await self._list(path, api_version="v1", kind="Pod", query={"labelSelector": selector})

    def pages_of_pods(self) -> AsyncIterator[list[Json]]:
        return self._pages("/api/v1/pods", api_version="v1", kind="Pod", query={"labelSelector": JOB})

    async def get_pod(self, namespace: str, name: str) -> Json:
        return await self._call("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")

    async def create_pod(self, manifest: Json) -> Json:
        return await self._write("POST", f"/api/v1/namespaces/{manifest['metadata']['namespace']}/pods", body=manifest)

    async def delete_pod(self, namespace: str, name: str, *, uid: str, grace_seconds: int | None) -> None:
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            await self._write("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", body=options)
        except Conflict as error:
            raise NotFound(f"pod {namespace}/{name} is no longer the one with UID {uid}: {error.message}", status=409) from None

    async def list_nodes(self) -> list[Json]:
        return await self._list("/api/v1/nodes", api_version="v1", kind="Node")

    async def create_event(self, event: Json) -> None:
        await self._write("POST", f"/api/v1/namespaces/{event['metadata']['namespace']}/events", body=event)

    async def patch_event(self, namespace: str, name: str, patch: Json) -> Json:
        path = f"/api/v1/namespaces/{namespace}/events/{name}"
        return await self._write("PATCH", path, body=patch, content_type="application/merge-patch+json")

    async def get_lease(self, namespace: str, name: str) -> Json:
        return await self._call("GET", f"{_LEASES}/namespaces/{namespace}/leases/{name}")

    async def put_lease(self, lease: Json) -> Json:
        metadata = lease["metadata"]
        return await self._call("PUT", f"{_LEASES}/namespaces/{metadata['namespace']}/leases/{metadata['name']}", body=lease)

    async def _list(self, path: str, *, api_version: str, kind: str, query: Mapping[str, str] | None = None) -> list[Json]:
        return [item async for page in self._pages(path, api_version=api_version, kind=kind, query=query) for item in page]

    async def _pages(self, path: str, *, api_version: str, kind: str, query: Mapping[str, str] | None = None) -> AsyncIterator[list[Json]]:
        """Everything, page by page. A page that has expired on the server fails the whole list: the next one begins anew."""
        asked = {**(query or {}), "limit": str(PAGE)}
        while True:
            document = await self._call("GET", path, query=asked)
            more = (document.get("metadata") or {}).get("continue")
            yield _items(document, api_version=api_version, kind=kind)
            if not more:
                return
            asked["continue"] = more

    async def _write(self, method: str, path: str, *, body: Json, content_type: str | None = None) -> Json:
        if not self.leads():
            raise NotLeading(f"{method} {path}: not sent, another operator may lead")
        return await self._call(method, path, body=body, content_type=content_type)

    async def _call(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Json | None = None, content_type: str | None = None
    ) -> Json:
        headers = {"Accept": "application/json", "Content-Type": content_type or "application/json"}
        try:
            method, url, headers, _, _ = await self._api.param_serialize(
                method, path, query_params=list((query or {}).items()), header_params=headers, auth_settings=["BearerToken"]
            )
            response = await self._api.call_api(method, url, headers, body, _request_timeout=self._timeout)
            data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{method} {path}: no answer from the API server ({type(error).__name__}: {error})") from error
        if 200 <= response.status < 300:
            document: Json = _parse(data)
            return document
        raise api_error(method, response.status, _parse(data), response.headers.get("Retry-After"))


_ADMISSION_TEXTS: tuple[tuple[str, type[Forbidden]], ...] = (
    ("exceeded quota", QuotaExceeded),
    # Of a quota that was made a moment ago: its controller has not counted yet.
    ("status unknown for quota", QuotaExceeded),
    ("error looking up service account", ReferenceMissing),
    ("no PriorityClass with name", ReferenceMissing),
)


def api_error(method: str, status: int, document: Json, retry_after: str | None = None) -> ClusterError:
    """The typed error of an answer that is no success. Pure.

    The API server tells a missing right from an admission refusal only by the object's name in `details` (an authorizer
    decides before the body is read, so a refused create has none), and its own admission plugins apart by their texts alone.
    """
    message = str(document.get("message") or f"HTTP {status}")
    details = document.get("details") or {}
    reason = document.get("reason", "")
    if status == 404:
        return NotFound(message, status=status)
    if status == 409:
        return (AlreadyExists if reason == "AlreadyExists" else Conflict)(message, status=status)
    if status == 429:
        return Throttled(message, retry_after=float(retry_after) if retry_after and retry_after.isdigit() else 1.0)
    if status == 422 or (status == 400 and method == "POST"):
        return AdmissionDenied(message, status=status)
    if status == 401:
        return RightsMissing(message, status=status)
    if status == 403:
        causes = {cause.get("reason") for cause in details.get("causes") or []}
        if "NamespaceTerminating" in causes:
            return NamespaceTerminating(message, status=status)
        if method != "POST" or not details.get("name"):
            return RightsMissing(message, status=status)
        for text, error in _ADMISSION_TEXTS:
            if text in message:
                return error(message, status=status)
        return AdmissionDenied(message, status=status)
    return Unavailable(message, status=status)


def _parse(data: bytes) -> Json:
    try:
        document = json.loads(data)
    except ValueError:
        return {"message": data[:512].decode("utf-8", "replace")}
    return document if isinstance(document, dict) else {}


def _items(document: Json, *, api_version: str, kind: str) -> list[Json]:
    """One page's items, each with the type that a list leaves out."""
    return [{"apiVersion": api_version, "kind": kind, **item} for item in document.get("items") or []]
