"""kubectl, helm and the API of the local cluster, as the demo uses them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from localcloud import assets
from localcloud.home import Home
from spottune_contract.labels import TRAINER_PORT
from spottune_contract.progress import Progress


class CommandFailed(RuntimeError):
    """kubectl or helm refused; the message is what it said."""


class Kube:
    """One cluster by its kubeconfig."""

    def __init__(self, home: Home) -> None:
        self.kubeconfig = home.kubeconfig
        self._core = client.CoreV1Api(config.new_client_from_config(config_file=str(self.kubeconfig)))

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and return what it printed. Raises `CommandFailed`."""
        return self._run("kubectl", *arguments, stdin=stdin)

    def helm(self, *arguments: str) -> str:
        """Run helm and return what it printed. Raises `CommandFailed`."""
        return self._run("helm", *arguments)

    def _run(self, tool: str, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [str(assets.binary(tool)), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
        )
        if done.returncode:
            raise CommandFailed(f"{tool} {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def apply(self, *documents: dict[str, Any] | Path) -> None:
        """`kubectl apply` of files and documents."""
        for document in documents:
            if isinstance(document, Path):
                self.kubectl("apply", "-f", str(document))
            else:
                self.kubectl("apply", "-f", "-", stdin=json.dumps(document))

    def progress(self, namespace: str, pod: str) -> Progress | None:
        """What the trainer in `pod` says of itself, through the API server; None while it cannot be reached."""
        try:
            text = self._core.connect_get_namespaced_pod_proxy_with_path(
                f"{pod}:{TRAINER_PORT}", namespace, "progress", _request_timeout=3, _preload_content=False
            ).data
            return Progress.model_validate_json(text)
        except (ApiException, HTTPError, ValueError):
            return None
