"""kubelet and kube-proxy of one node: their configuration files and command lines."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from localcloud.assets import binary
from localcloud.containerd import NODE, SOCKET
from localcloud.controlplane import ControlPlane

LEASE_SECONDS = 12
"""Renewed every 3 s; the control plane's grace period (20 s) is made for it."""
MEMORY_BYTES = 8 << 30
"""What a node offers to pods; the rest of the machine is reserved, since all nodes share it."""


@dataclass(frozen=True)
class Registration:
    """How a node presents itself to the cluster.

    Attributes:
        name: of the Node object.
        address: on the bridge.
        provider_id: `aws:///ZONE/INSTANCE`.
        labels: set by the kubelet at its registration.
        taints: `KEY[=VALUE]:EFFECT`, set by the kubelet at its registration.
    """

    name: str
    address: str
    provider_id: str
    labels: Mapping[str, str]
    taints: Sequence[str]


def write(directory: Path, node: Registration, plane: ControlPlane, cgroup_root: str) -> tuple[list[str], list[str]]:
    """Write what kubelet and kube-proxy need below the node's `directory`; returns their command lines."""
    serving = plane.kubelet_serving(node.name, [node.name, node.address])
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(plane.authority.ca.certificate)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "failCgroupV1": False,
        "failSwapOn": False,
        "resolvConf": "",
        "providerID": node.provider_id,
        "registerWithTaints": [parse_taint(text) for text in node.taints],
        "nodeLeaseDurationSeconds": LEASE_SECONDS,
        "nodeStatusUpdateFrequency": "3s",
        "nodeStatusReportFrequency": "1m",
        "systemReserved": {"memory": str(max(0, _machine_memory() - MEMORY_BYTES))},
        "enforceNodeAllocatable": [],
        # All nodes share this machine's disk and memory: none may evict for what the others use, none may collect images.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "podLogsDir": str(NODE / "pods"),
        "volumePluginDir": str(NODE / "plugins"),
        "serializeImagePulls": False,
        "syncFrequency": "10s",
        "oomScoreAdj": 0,
        "kubeAPIQPS": 50,
        "kubeAPIBurst": 100,
    }
    (directory / "kubelet.json").write_text(json.dumps(config, indent=1))
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node.name,
        "clientConnection": {"kubeconfig": str(plane.client_config("system:kube-proxy"))},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "detectLocalMode": "BridgeInterface",
        "detectLocal": {"bridgeInterface": "cni0"},
        # The connection tracking table belongs to the machine; a node may not change its size.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    (directory / "kube-proxy.json").write_text(json.dumps(proxy, indent=1))
    kubelet = [
        str(binary("kubelet")),
        f"--config={directory / 'kubelet.json'}",
        f"--kubeconfig={plane.node_config(node.name)}",
        f"--root-dir={NODE / 'kubelet'}",
        f"--cert-dir={NODE / 'kubelet' / 'pki'}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
        f"--node-labels={','.join(f'{key}={value}' for key, value in sorted(node.labels.items()))}",
    ]
    return kubelet, [str(binary("kube-proxy")), f"--config={directory / 'kube-proxy.json'}"]


def parse_taint(text: str) -> dict[str, str]:
    """A taint as `kubectl taint` writes it, in the API's form; raises `ValueError` that says how to write it."""
    pair, colon, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    if not colon or not key or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise ValueError(f"taint {text!r}: write it as KEY[=VALUE]:EFFECT with NoSchedule, PreferNoSchedule or NoExecute")
    return {"key": key, "effect": effect} | ({"value": value} if value else {})


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
