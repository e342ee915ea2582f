"""The programs of the local cluster: found, downloaded or built once per machine, at pinned versions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


class AssetError(RuntimeError):
    """A program could be had in none of the ways; the message says what was tried and what to do."""


@dataclass(frozen=True)
class Asset:
    """One program: built from `package` of the module `localcloud/gomod/<module>`."""

    name: str
    version: str
    module: str
    package: str
    stamp: str = ""


_KUBERNETES = "v1.34.4"


def _kubernetes(name: str) -> Asset:
    stamp = f"-X k8s.io/component-base/version.gitVersion={_KUBERNETES}"
    return Asset(name, _KUBERNETES, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", stamp)


ASSETS: tuple[Asset, ...] = (
    *map(_kubernetes, ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")),
    Asset("etcd", "v3.6.16", "etcd", "go.etcd.io/etcd/server/v3"),
    Asset("karpenter", "v1.14.0", "karpenter", "github.com/aws/karpenter-provider-aws/cmd/controller"),
    Asset("toxiproxy-server", "v2.5.0", "toxiproxy", "github.com/Shopify/toxiproxy/v2/cmd/server"),
    Asset("helm", "v4.3.1", "helm", "helm.sh/helm/v4/cmd/helm"),
)


def cache_directory() -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/spottune`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spottune"


def binary(name: str) -> Path:
    """The path of the program `name`, fetched or built if this machine does not have it yet.

    Raises:
        AssetError: it could be had in none of the ways.
    """
    asset = next(a for a in ASSETS if a.name == name)
    path = cache_directory() / "bin" / f"{asset.name}-{asset.version}" / asset.name
    if not path.exists():
        raise AssetError(f"{name} is not there")
    return path
