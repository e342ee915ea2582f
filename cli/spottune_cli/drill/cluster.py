"""What a drill does to a cluster, each with a right that a person may have in the job's namespace; none needs more than that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream
from urllib3.exceptions import HTTPError

from spottune_cli.errors import Exit, Refusal
from spottune_cli.jobs import Connection
from spottune_contract.labels import EPOCH, JOB, TRAINER_CONTAINER, TRAINER_PORT
from spottune_contract.progress import CheckpointRequest, Progress

_SECONDS = 10
_CLOCKS_AGREE_SECONDS = 2.0
"""The API server tells whole seconds: a smaller difference is none."""


class Cluster:
    """One namespace. All methods raise `Refusal` when the API server does not answer or refuses."""

    def __init__(self, namespace: str, connection: Connection) -> None:
        self.namespace, self._connection = namespace, connection
        self._core = client.CoreV1Api(connection.api)
        self._network = client.NetworkingV1Api(connection.api)
        self._behind = 0.0

    def now(self) -> float:
        """Wall clock seconds of the cluster, as the last `pod` told them."""
        return time.time() + self._behind

    def pod(self, name: str) -> dict[str, Any] | None:
        """The pod as it is; None if there is none."""
        try:
            with self._asking("get pods"):
                found, _, headers = self._core.read_namespaced_pod_with_http_info(name, self.namespace, _request_timeout=_SECONDS)
        except _NotThere:
            return None
        behind = parsedate_to_datetime(headers["Date"]).timestamp() - time.time()
        self._behind = behind if abs(behind) > _CLOCKS_AGREE_SECONDS else 0.0
        return dict(self._connection.api.sanitize_for_serialization(found))

    def progress(self, pod: str) -> Progress | None:
        """What the trainer says of itself, through the API server; None if it does not answer."""
        status, text = self._proxy("GET", pod, "progress", None)
        if status in (401, 403):
            raise self._connection.refused(status, "Forbidden", self._right("get pods/proxy"))
        try:
            return Progress.model_validate_json(text) if status == 200 else None
        except ValueError:
            return None

    def tell(self, pod: str, request: CheckpointRequest) -> None:
        """Ask the trainer for a commit, as the node agent does."""
        status, text = self._proxy("POST", pod, "checkpoint", request.model_dump(mode="json", exclude_none=True))
        if status in (401, 403):
            raise self._connection.refused(status, "Forbidden", self._right("create pods/proxy"))
        if status == 429:
            raise Refusal(Exit.UNREACHABLE, f"the trainer of pod {pod} was asked for commits too often just now: try again in a minute")
        if not 200 <= status < 300:
            raise Refusal(Exit.UNREACHABLE, f"the trainer of pod {pod} does not take the request (HTTP {status}: {text[:200].strip()})")

    def delete(self, pod: str, uid: str, grace_seconds: int) -> bool:
        """Delete exactly this pod; False if it is gone already."""
        options = client.V1DeleteOptions(grace_period_seconds=grace_seconds, preconditions=client.V1Preconditions(uid=uid))
        try:
            with self._asking("delete pods"):
                self._core.delete_namespaced_pod(pod, self.namespace, body=options, _request_timeout=_SECONDS)
        except _NotThere:
            return False
        return True

    def execute(self, pod: str, *command: str, seconds: float) -> tuple[bool, str]:
        """Run a command in the trainer's container for `seconds` at most. Returns whether it, or its container, ended, and what it printed."""
        with self._asking("create and get pods/exec"):
            try:
                session = stream(
                    self._core.connect_get_namespaced_pod_exec,
                    pod,
                    self.namespace,
                    container=TRAINER_CONTAINER,
                    command=list(command),
                    stdin=False,
                    stdout=True,
                    stderr=True,
                    tty=False,
                    _preload_content=False,
                )
            except ApiException as error:
                # The client tells a refused handshake in words only.
                if "403" in str(error.reason):
                    raise ApiException(status=403, reason="Forbidden") from None
                raise
        try:
            session.run_forever(timeout=seconds)
            return not session.is_open(), str(session.read_all())
        finally:
            session.close()

    def deny(self, name: str, pod: str, uid: str, job: str, epoch: int) -> None:
        """A NetworkPolicy that allows this attempt's pod nothing. It goes with the pod."""
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        body = {
            "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": {"podSelector": {"matchLabels": {JOB: job, EPOCH: str(epoch)}}, "policyTypes": ["Ingress", "Egress"]},
        }
        with self._asking("create networkpolicies.networking.k8s.io"):
            self._network.create_namespaced_network_policy(self.namespace, body, _request_timeout=_SECONDS)

    def allow(self, name: str) -> None:
        """Take the policy away again; one that is gone is done already."""
        try:
            with self._asking("delete networkpolicies.networking.k8s.io"):
                self._network.delete_namespaced_network_policy(name, self.namespace, _request_timeout=_SECONDS)
        except _NotThere:
            return

    def node(self, name: str) -> dict[str, Any]:
        """The Node object."""
        with self._asking("get nodes (of the whole cluster)"):
            return dict(self._connection.api.sanitize_for_serialization(self._core.read_node(name, _request_timeout=_SECONDS)))

    def _proxy(self, method: str, pod: str, path: str, body: object) -> tuple[int, str]:
        """Status and body of the trainer's answer; 503 if it cannot be reached."""
        where = f"/api/v1/namespaces/{self.namespace}/pods/{pod}:{TRAINER_PORT}/proxy/{path}"
        headers = {"Content-Type": "application/json"} if body is not None else {}
        api = self._connection.api
        try:
            request = api.param_serialize(method, where, header_params=headers, body=body, auth_settings=["BearerToken"])
            answer = api.call_api(*request, _request_timeout=_SECONDS)
            return answer.status, (answer.read() or b"").decode(errors="replace")
        except ApiException as error:
            return error.status or 503, str(error.body or error.reason)
        except HTTPError as error:
            return 503, type(error).__name__

    @contextmanager
    def _asking(self, verb: str) -> Iterator[None]:
        with self._connection.asking(self._right(verb)):
            try:
                yield
            except ApiException as error:
                if error.status in (404, 409):
                    raise _NotThere from None
                raise

    def _right(self, verb: str) -> str:
        return f"{verb} in namespace {self.namespace!r}"


class _NotThere(Exception):
    """404, or another object than the one that was meant."""
