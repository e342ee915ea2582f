"""FineTuneJobs of a cluster, read with the user's own kubeconfig."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from spottune_contract.labels import API_VERSION, GROUP, PLURAL


class JobNotFound(LookupError):
    """There is no such job; the message names where was looked."""


class Jobs:
    """The jobs of one namespace. `kubeconfig` None means the usual places (KUBECONFIG, ~/.kube/config)."""

    def __init__(self, namespace: str, kubeconfig: str | None = None) -> None:
        self.namespace = namespace
        self._api = client.CustomObjectsApi(config.new_client_from_config(config_file=kubeconfig))

    def get(self, name: str) -> dict[str, Any]:
        """The job as the API server has it. Raises `JobNotFound`."""
        try:
            return dict(self._api.get_namespaced_custom_object(GROUP, API_VERSION, self.namespace, PLURAL, name, _request_timeout=10))
        except ApiException as error:
            if error.status == 404:
                raise JobNotFound(f"no FineTuneJob {name!r} in namespace {self.namespace!r}; `kubectl get ftj -A` lists all") from None
            raise

    def follow(self, name: str, every: float = 1.0) -> Iterator[dict[str, Any]]:
        """The job again and again, every so many seconds; an API server that is away for a while is waited for.

        Ends, without an error, when a job that was there is deleted. Raises `JobNotFound` if it never was.
        """
        seen = False
        while True:
            try:
                yield self.get(name)
                seen = True
            except JobNotFound:
                if not seen:
                    raise
                return
            except (ApiException, HTTPError) as error:
                if isinstance(error, ApiException) and error.status in (401, 403):
                    raise
            time.sleep(every)
