"""Parameters of the agent, read once from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from spottune_contract.env import NODE_VARIABLE, PREFIX
from spottune_contract.labels import TRAINER_PORT
from spottune_contract.notice import MARGIN_SECONDS

_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class BadSettings(ValueError):
    """A variable is missing or wrong; the message names it and the remedy."""


@dataclass(frozen=True)
class Settings:
    """Everything that can be set. Times are seconds."""

    node: str
    """Name of the node that the agent runs on."""
    api_url: str
    """Base address of the API server, `https://HOST:PORT`."""
    imds_url: str = "http://169.254.169.254"
    token_file: Path = Path(_ACCOUNT, "token")
    ca_file: Path = Path(_ACCOUNT, "ca.crt")
    poll_seconds: float = 2.0
    """Mean time between two looks at the metadata. AWS says every 5 s; two minutes are short enough to ask more often."""
    list_seconds: float = 5.0
    """Time between two lists of the node's trainer pods while nothing is announced; what an outage of the API server finds remembered."""
    margin_seconds: float = MARGIN_SECONDS
    """Left for the kubelet to report the pod's end before the machine is gone."""
    trainer_port: int = TRAINER_PORT
    health_port: int = 8472
    """Port of `/healthz` on 127.0.0.1; 0 switches it off."""
    log_level: str = "info"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read `SPOTTUNE_*`. Raises `BadSettings` naming the variable."""
        node = environ.get(NODE_VARIABLE, "")
        if not node:
            raise BadSettings(f"{NODE_VARIABLE} is not set: give the pod's spec.nodeName by the downward API")
        return cls(
            node=node,
            api_url=_url(environ, "API_URL", _in_cluster(environ)),
            imds_url=_url(environ, "IMDS_URL", cls.imds_url),
            token_file=Path(environ.get(PREFIX + "TOKEN_FILE") or cls.token_file),
            ca_file=Path(environ.get(PREFIX + "CA_FILE") or cls.ca_file),
            poll_seconds=_number(environ, "POLL_SECONDS", cls.poll_seconds, low=0.05, high=60),
            list_seconds=_number(environ, "LIST_SECONDS", cls.list_seconds, low=0.05, high=300),
            margin_seconds=_number(environ, "MARGIN_SECONDS", cls.margin_seconds, low=0, high=60),
            trainer_port=int(_number(environ, "TRAINER_PORT", cls.trainer_port, low=1, high=65535)),
            health_port=int(_number(environ, "HEALTH_PORT", cls.health_port, low=0, high=65535)),
            log_level=environ.get(PREFIX + "LOG_LEVEL") or cls.log_level,
        )


def _in_cluster(environ: Mapping[str, str]) -> str:
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return ""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _url(environ: Mapping[str, str], name: str, default: str) -> str:
    value = (environ.get(PREFIX + name) or default).rstrip("/")
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadSettings(f"{PREFIX}{name}: {value!r} is not an address; write http://HOST:PORT or https://HOST:PORT")
    return value


def _number(environ: Mapping[str, str], name: str, default: float, *, low: float, high: float) -> float:
    text = environ.get(PREFIX + name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise BadSettings(f"{PREFIX}{name}: {text!r} is not a number from {low:g} to {high:g}")
    return value
