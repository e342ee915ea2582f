"""FineTuneJobs of a cluster, read with the user's own kubeconfig."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError
from yaml import YAMLError

from spottune_cli.errors import Exit, Refusal
from spottune_contract.labels import API_VERSION, GROUP, PLURAL


class JobNotFound(Refusal):
    """There is no such job; the message names where was looked."""

    def __init__(self, name: str, namespace: str) -> None:
        super().__init__(Exit.USAGE, f"no FineTuneJob {name!r} in namespace {namespace!r}; `kubectl get ftj -A` lists all")


class Connection:
    """The API server that a kubeconfig names; None means the usual places (KUBECONFIG, ~/.kube/config). Raises `Refusal` without one."""

    def __init__(self, kubeconfig: str | None = None) -> None:
        try:
            self.api = config.new_client_from_config(config_file=kubeconfig)
        except (ConfigException, YAMLError, OSError, ValueError, TypeError, AttributeError) as error:
            # The client library reads the file as it comes: a list instead of a mapping, say, is an AttributeError there.
            where = kubeconfig or "KUBECONFIG or ~/.kube/config"
            detail = " ".join(str(error).split())
            raise Refusal(
                Exit.USAGE, f"no usable kubeconfig at {where} ({detail}): give --kubeconfig, or set KUBECONFIG to that of the cluster"
            ) from None
        self.server = str(self.api.configuration.host)

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Turns an API server that does not answer or refuses into a `Refusal`; `what`: the right that is needed, for its message."""
        try:
            yield
        except ApiException as error:
            raise self.refused(error.status, error.reason, what) from None
        except HTTPError as error:
            raise Refusal(
                Exit.UNREACHABLE,
                f"the cluster at {self.server} does not answer ({type(error).__name__}): check the network and the kubeconfig's context",
            ) from None

    def refused(self, status: int, reason: str, what: str) -> Refusal:
        """The sentence for an answer that is an error."""
        remedy = {
            401: "the kubeconfig's credentials are not valid (any more): log in again",
            403: f"your user may not {what}: ask for that right, or use another context",
        }.get(status, "try again, and see the API server's own log if it stays")
        return Refusal(Exit.UNREACHABLE, f"the cluster at {self.server} answers {status} ({reason}): {remedy}")


class Jobs:
    """The jobs of one namespace."""

    def __init__(self, namespace: str, connection: Connection | str | None = None) -> None:
        """`connection`: one that is there, or the path of a kubeconfig. Raises as `Connection` does."""
        self.namespace = namespace
        self._connection = connection if isinstance(connection, Connection) else Connection(connection)
        self._api = client.CustomObjectsApi(self._connection.api)
        self._right = f"get {PLURAL}.{GROUP} in namespace {namespace!r}"

    def get(self, name: str) -> dict[str, Any]:
        """The job as the API server has it. Raises `JobNotFound`, `Refusal` if the cluster does not answer or refuses."""
        with self._connection.asking(self._right):
            return self._get(name)

    def follow(self, name: str, every: float = 1.0) -> Iterator[dict[str, Any]]:
        """The job again and again, every so many seconds; an API server that goes away for a while is waited for.

        Ends, without an error, when a job that was there is deleted. Raises as `get` does if the first look fails.
        """
        yield self.get(name)
        while True:
            time.sleep(every)
            try:
                yield self._get(name)
            except JobNotFound:
                return
            except HTTPError:
                continue
            except ApiException as error:
                if error.status in (401, 403):
                    raise self._connection.refused(error.status, error.reason, self._right) from None

    def _get(self, name: str) -> dict[str, Any]:
        try:
            return dict(self._api.get_namespaced_custom_object(GROUP, API_VERSION, self.namespace, PLURAL, name, _request_timeout=10))
        except ApiException as error:
            if error.status == 404:
                raise JobNotFound(name, self.namespace) from None
            raise
