"""`spottune doctor`: reads what the checks need with the user's own kubeconfig, and prints what they found. Decides nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from rich.console import Console

from spottune_cli.checks import RESOURCES, SELECTORS, Cluster, Finding, Level, Listing, Unread, examine
from spottune_cli.jobs import Connection
from spottune_contract.labels import API_VERSION, GROUP, PLURAL

_GROUPS = {
    "operators": ("apps", "v1"),
    "leases": ("coordination.k8s.io", "v1"),
    "daemon_sets": ("apps", "v1"),
    "node_pools": ("karpenter.sh", "v1"),
    "karpenters": ("apps", "v1"),
    "jobs": (GROUP, API_VERSION),
    "budgets": ("policy", "v1"),
    "policies": ("admissionregistration.k8s.io", "v1"),
    "bindings": ("admissionregistration.k8s.io", "v1"),
}
_OF_JOBS = ("jobs", "trainers", "budgets")
"""What is looked at in the namespaces of jobs; the rest belongs to the cluster or the installation."""
_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
_TIMEOUT = 15


class Reader:
    """Lists objects of one cluster. `namespace` None: all of them."""

    def __init__(self, kubeconfig: str | None) -> None:
        self._connection = Connection(kubeconfig)
        self._custom = client.CustomObjectsApi(self._connection.api)
        self._core = client.CoreV1Api(self._connection.api)
        self._extensions = client.ApiextensionsV1Api(self._connection.api)

    def read(self, namespace: str | None, now: Callable[[], float] = time.time) -> Cluster:
        """Everything that the checks look at. Raises `Refusal` if the cluster does not answer or knows nobody."""
        scopes = dict.fromkeys(RESOURCES) | dict.fromkeys(_OF_JOBS, namespace)
        listings: dict[str, Listing] = {kind: self._listed(kind, scope) for kind, scope in scopes.items() if kind != "leases"}
        return Cluster(now=now(), leases=self._leases(listings["operators"]), **listings)

    def _leases(self, operators: Listing) -> Listing:
        """The operator's Lease, in its namespace: others are nobody's business."""
        if isinstance(operators, Unread):
            return operators
        found: list[Any] = []
        for namespace in {deployment["metadata"]["namespace"] for deployment in operators}:
            listing = self._asked(
                lambda where=namespace: [  # type: ignore[misc]
                    self._custom.get_namespaced_custom_object(
                        *_GROUPS["leases"], where, "leases", "spottune-operator", _request_timeout=_TIMEOUT
                    )
                ]
            )
            if listing == Unread(403):
                return listing
            found += [] if isinstance(listing, Unread) else listing
        return found

    def _listed(self, kind: str, namespace: str | None) -> Listing:
        options: dict[str, Any] = {"_request_timeout": _TIMEOUT}
        if kind in SELECTORS:
            options["label_selector"] = SELECTORS[kind]
        return self._asked(lambda: self._call(kind, namespace, options))

    def _call(self, kind: str, namespace: str | None, options: dict[str, Any]) -> list[Any]:
        if kind == "crds":
            options["field_selector"] = f"metadata.name={PLURAL}.{GROUP}"
            return _items(self._extensions.list_custom_resource_definition(_preload_content=False, **options))
        if kind == "nodes":
            return _items(self._core.list_node(_preload_content=False, **options))
        if kind in ("agents", "trainers"):
            if namespace:
                return _items(self._core.list_namespaced_pod(namespace, _preload_content=False, **options))
            return _items(self._core.list_pod_for_all_namespaces(_preload_content=False, **options))
        plural = RESOURCES[kind].split(".")[0]
        if namespace:
            return list(self._custom.list_namespaced_custom_object(*_GROUPS[kind], namespace, plural, **options)["items"])
        return list(self._custom.list_cluster_custom_object(*_GROUPS[kind], plural, **options)["items"])

    def _asked(self, ask: Callable[[], list[Any]]) -> Listing:
        with self._connection.asking("list what the checks look at"):
            try:
                return ask()
            except ApiException as error:
                if error.status in (403, 404):
                    return Unread(error.status)
                raise


def _items(response: Any) -> list[Any]:
    return list(json.loads(response.data)["items"])


def look(kubeconfig: str | None, namespace: str | None) -> list[Finding]:
    """Findings about the cluster. Without a namespace all are looked at, or, where that is forbidden, that of the kubeconfig's context."""
    reader = Reader(kubeconfig)
    cluster = reader.read(namespace)
    if namespace is not None or Unread(403) not in (cluster.jobs, cluster.trainers):
        return examine(cluster)
    own = own_namespace(kubeconfig)
    why = f"you may not list jobs and pods of all namespaces: only {own} was looked at"
    return [Finding("namespaces", Level.WARNING, why, "-n NAMESPACE looks at another one"), *examine(reader.read(own))]


def own_namespace(kubeconfig: str | None) -> str:
    """Namespace of the kubeconfig's current context."""
    from kubernetes import config

    context: dict[str, Any] = config.list_kube_config_contexts(config_file=kubeconfig)[1]
    return str(context["context"].get("namespace") or "default")


def show(findings: Sequence[Finding], console: Console) -> None:
    """One line for each finding, the remedy below it."""
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        console.print(f"{finding.level:8}", style=_STYLES[finding.level], end=" ")
        console.print(f"{finding.check:{width}}  {finding.message}", markup=False, soft_wrap=True)
        if finding.remedy:
            console.print(f"{'':{8 + 1 + width + 2}}→ {finding.remedy}", markup=False, soft_wrap=True)


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The same for programs."""
    told = [{"check": f.check, "level": f.level.value, "message": f.message, "remedy": f.remedy} for f in findings]
    return {"problems": sum(f.level is Level.PROBLEM for f in findings), "findings": told}
