"""Writes as the API server itself counts them: its audit log, kept for the operator's account alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from localcloud.home import Home

ACCOUNT = "system:serviceaccount:spottune-system:spottune-operator"
LEASE = "update leases"
_WRITES = ["create", "update", "patch", "delete", "deletecollection"]
_EVENTS = ("create events", "patch events")
_PODS = ("create pods", "delete pods")


@dataclass(frozen=True)
class Audit:
    """The audit log of one API server."""

    policy: Path
    log: Path

    @classmethod
    def of(cls, home: Home) -> Audit:
        folder = home.data("audit")
        audit = cls(folder / "policy.yaml", folder / "audit.log")
        rules = [
            {"level": "Metadata", "users": [ACCOUNT], "verbs": _WRITES, "omitStages": ["RequestReceived"]},
            {"level": "None"},
        ]
        audit.policy.write_text(yaml.safe_dump({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
        return audit

    @property
    def flags(self) -> tuple[str, ...]:
        """For the API server."""
        return (f"--audit-policy-file={self.policy}", f"--audit-log-path={self.log}")

    def size(self) -> int:
        """How far the log has got: to be given to `since`."""
        return self.log.stat().st_size if self.log.exists() else 0

    def since(self, start: int) -> Counter[str]:
        """What was written after `start`."""
        if not self.log.exists():
            return Counter()
        with self.log.open("rb") as file:
            file.seek(start)
            return kinds(file.read().decode().splitlines())


def kinds(lines: Iterable[str]) -> Counter[str]:
    """Requests that the API server carried out, by verb and resource. Pure."""
    found: Counter[str] = Counter()
    for line in lines:
        entry = json.loads(line)
        if entry.get("responseStatus", {}).get("code", 500) < 300:
            where = entry["objectRef"]
            found[f"{entry['verb']} {'/'.join(filter(None, (where['resource'], where.get('subresource'))))}"] += 1
    return found


def but_the_lease(writes: Counter[str]) -> int:
    """Writes without the renewals of the leader's Lease."""
    return writes.total() - writes[LEASE]


def beside_pods_and_events(writes: Counter[str]) -> int:
    """Writes that are neither the making and ending of a pod, nor an event, nor a renewal of the Lease."""
    return but_the_lease(writes) - sum(writes[kind] for kind in (*_PODS, *_EVENTS))


def told(writes: Counter[str]) -> str:
    """In one line, the most frequent first."""
    return ", ".join(f"{count} {kind}" for kind, count in writes.most_common()) or "none"
