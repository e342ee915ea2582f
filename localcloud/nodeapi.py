"""The few requests that nodes' verbs make of the API server, with the standard library only."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import yaml

from localcloud.controlplane import ControlPlane
from localcloud.home import HOST_ADDRESS, Home
from localcloud.noderecord import NodeError


def control_plane(home: Home) -> ControlPlane:
    try:
        config = yaml.safe_load(home.kubeconfig.read_text())
    except FileNotFoundError:
        raise NodeError(f"no cluster at {home.root}: bring it up first (`.venv/bin/python -m localcloud up`)") from None
    url = urlsplit(config["clusters"][0]["cluster"]["server"])
    if url.hostname != HOST_ADDRESS or url.port is None:
        raise NodeError(f"nodes cannot reach the API server at {url.netloc}: it must listen on the bridge, {HOST_ADDRESS}")
    return ControlPlane(home, url.hostname, url.port)


def request(plane: ControlPlane, method: str, path: str) -> dict[str, Any] | None:
    """One request as administrator; None for 404 and while the API server does not answer."""
    context = ssl.create_default_context(cafile=str(plane.authority.ca.certificate))
    admin = plane.authority.client("kubernetes-admin", ["system:masters"])
    context.load_cert_chain(str(admin.certificate), str(admin.key))
    try:
        with urllib.request.urlopen(urllib.request.Request(plane.server + path, method=method), timeout=10, context=context) as response:
            body: dict[str, Any] = json.load(response)
            return body
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise NodeError(f"{method} {path}: the API server answered {error.code} {error.reason}") from error
    except OSError:
        return None


def is_ready(body: Mapping[str, Any] | None) -> bool:
    conditions = (body or {}).get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
