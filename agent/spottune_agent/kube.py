"""The few API calls of the agent: list the trainer pods of its node, delete one, record an event."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import ssl
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from spottune_agent.respond import TrainerPod
from spottune_contract import labels

_TIMEOUT_SECONDS = 5.0
_BODY_LIMIT = 32 * 1024 * 1024
_REPORTER = "spottune.dev/agent"


class KubeError(Exception):
    """The API server did not answer or refused; the message says what was asked and why not."""


class Deletion(StrEnum):
    """What a delete call found."""

    ACCEPTED = "Accepted"
    GONE = "Gone"
    """No pod of this name, or another one: the one that was meant is no more."""


class Kube:
    """Client with the pod's own token, read anew for each call because the kubelet rotates it. Thread-safe: one connection a call."""

    def __init__(self, url: str, token_file: Path, ca_file: Path, *, timeout: float = _TIMEOUT_SECONDS) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._secure else 80)
        self._token_file, self._ca_file, self._timeout = token_file, ca_file, timeout

    def trainer_pods(self, node: str) -> list[TrainerPod]:
        """Pods on `node` that bear the job label, in all namespaces. Raises `KubeError`."""
        # resourceVersion=0: the API server answers from its cache, which costs etcd nothing however many nodes ask.
        selector = {"fieldSelector": f"spec.nodeName={node}", "labelSelector": labels.JOB, "resourceVersion": "0"}
        document = self._call("GET", f"/api/v1/pods?{urlencode(selector)}", None)[1]
        return [pod for item in document.get("items") or [] if (pod := _trainer_pod(item)) is not None]

    def delete_pod(self, pod: TrainerPod, grace_seconds: int) -> Deletion:
        """Delete exactly this pod with this grace time. Raises `KubeError`."""
        body = {"gracePeriodSeconds": grace_seconds, "preconditions": {"uid": pod.uid}}
        path = f"/api/v1/namespaces/{quote(pod.namespace)}/pods/{quote(pod.name)}"
        status, _ = self._call("DELETE", path, body, expected=(200, 202, 404, 409))
        # 409 is the failed UID precondition: the name belongs to another pod by now.
        return Deletion.GONE if status in (404, 409) else Deletion.ACCEPTED

    def record_event(self, pod: TrainerPod, *, name: str, reason: str, message: str, node: str, at: float) -> None:
        """Create the warning event `name` on `pod`; one that exists already is left as it is. `at`: wall clock seconds. Raises `KubeError`."""
        time = datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        event = {
            "metadata": {"name": name, "namespace": pod.namespace},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
            "type": "Warning",
            "reason": reason,
            "action": "Interrupt",
            "message": message,
            "eventTime": time,
            "reportingComponent": _REPORTER,
            "reportingInstance": node[:128],
        }
        self._call("POST", f"/api/v1/namespaces/{quote(pod.namespace)}/events", event, expected=(200, 201, 409))

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None, *, expected: tuple[int, ...] = (200,)
    ) -> tuple[int, dict[str, Any]]:
        try:
            headers = {"Authorization": f"Bearer {self._token_file.read_text().strip()}", "Accept": "application/json"}
            payload = None if body is None else json.dumps(body)
            if payload is not None:
                headers["Content-Type"] = "application/json"
            with contextlib.closing(self._connection()) as connection:
                connection.request(method, path, payload, headers)
                response = connection.getresponse()
                data = response.read(_BODY_LIMIT)
            document = json.loads(data) if data else {}
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise KubeError(f"{method} {path}: {type(error).__name__}: {error}") from None
        if not isinstance(document, dict):
            raise KubeError(f"{method} {path}: HTTP {response.status} with a body that is no object")
        if response.status not in expected:
            raise KubeError(f"{method} {path}: HTTP {response.status}: {str(document.get('message', ''))[:512]}")
        return response.status, document

    def _connection(self) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        context = ssl.create_default_context(cafile=str(self._ca_file))
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=context)


def _trainer_pod(item: dict[str, Any]) -> TrainerPod | None:
    metadata, status = item.get("metadata") or {}, item.get("status") or {}
    if not metadata.get("uid") or labels.JOB not in (metadata.get("labels") or {}):
        return None
    return TrainerPod(
        namespace=metadata.get("namespace", ""),
        name=metadata.get("name", ""),
        uid=metadata["uid"],
        address=status.get("podIP") or "",
        ending=metadata.get("deletionTimestamp") is not None,
        finished=status.get("phase") in ("Succeeded", "Failed"),
    )
