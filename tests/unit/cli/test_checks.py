"""Each check of `spottune doctor` on objects as the API gives them: what is a problem, what is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from spottune_cli import checks
from spottune_cli.checks import Cluster, Level, Unread, examine

NOW = datetime(2026, 11, 29, 1, 0, tzinfo=UTC).timestamp()
ROOT = Path(__file__).resolve().parents[3]
CRD = yaml.safe_load((ROOT / "crds" / "finetunejobs.spottune.dev.yaml").read_text())
QUEUE = "https://sqs.us-east-1.amazonaws.com/123456789012/spottune-eu-1"


def deployment(name: str = "spottune-operator", ready: int = 1, **env: str) -> dict[str, Any]:
    container = {"env": [{"name": key, "value": value} for key, value in env.items()]}
    return {
        "metadata": {"name": name, "namespace": "spottune-system"},
        "spec": {"template": {"spec": {"containers": [container]}}},
        "status": {"readyReplicas": ready},
    }


def operator(ready: int = 1, **settings: str) -> dict[str, Any]:
    return deployment(ready=ready, **{f"SPOTTUNE_OPERATOR_{key}": value for key, value in settings.items()})


def lease(renewed: str = "2026-11-29T00:59:55.000000Z", holder: str = "spottune-operator-1") -> dict[str, Any]:
    spec = {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}
    return {"metadata": {"name": "spottune-operator", "namespace": "spottune-system"}, "spec": spec}


def node(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"karpenter.sh/capacity-type": "spot"} | labels}}


def agent(where: str, ready: str = "True") -> dict[str, Any]:
    return {"metadata": {}, "spec": {"nodeName": where}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}


def pool(period: str | None = "120s", capacity: str = "spot", **disruption: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"requirements": [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": [capacity]}]}
    if period:
        spec["terminationGracePeriod"] = period
    return {"metadata": {"name": "pool"}, "spec": {"template": {"spec": spec}, "disruption": disruption}}


def trainer(*tolerations: dict[str, str], **spec: Any) -> dict[str, Any]:
    labels = {"spottune.dev/job": "job", "team": "a"}
    body = {"automountServiceAccountToken": False, "tolerations": list(tolerations)} | spec
    return {"metadata": {"name": "job-e1-0", "namespace": "team-a", "labels": labels, "annotations": {}}, "spec": body}


def budget(selector: dict[str, Any] | None = None, *, namespace: str = "team-a", status: Any = None, **spec: Any) -> dict[str, Any]:
    chosen = {"matchLabels": {"team": "a"}} if selector is None else selector
    return {"metadata": {"name": "pdb", "namespace": namespace}, "spec": {"selector": chosen} | spec, "status": status or {}}


def job(*tolerations: dict[str, str], fits: str = "True") -> dict[str, Any]:
    condition = {"type": "CheckpointFitsNotice", "status": fits, "message": "150 s of 110 s"}
    spec = {"podOverrides": {"tolerations": list(tolerations)}}
    return {"metadata": {"name": "job", "namespace": "team-a"}, "spec": spec, "status": {"conditions": [condition]}}


def policies(*names: str) -> dict[str, Any]:
    bindings = [{"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}} for name in names]
    return {"policies": [{"metadata": {"name": name}} for name in names], "bindings": bindings}


HEALTHY = Cluster(
    now=NOW,
    crds=[CRD],
    operators=[operator(SQS_QUEUE_URL=QUEUE)],
    leases=[lease()],
    daemon_sets=[{"metadata": {"name": "spottune-agent", "namespace": "spottune-system"}}],
    agents=[agent("a"), agent("b")],
    nodes=[node("a"), node("b"), node("c", **{"karpenter.sh/capacity-type": "on-demand"})],
    node_pools=[pool(), pool(None, "on-demand")],
    karpenters=[deployment("karpenter", INTERRUPTION_QUEUE="karpenter-eu-1")],
    jobs=[job()],
    trainers=[trainer({"key": "nvidia.com/gpu", "operator": "Exists"})],
    budgets=[budget(maxUnavailable=1)],
    **policies("spottune-jobs", "spottune-agent"),
)


def worst(cluster: Cluster, name: str) -> Level:
    levels = [finding.level for finding in examine(cluster) if finding.check == name]
    return max(levels, key=list(Level).index, default=Level.OK)


def test_a_healthy_cluster_is_ok_in_every_check() -> None:
    findings = examine(HEALTHY)
    assert {finding.level for finding in findings} == {Level.OK}
    assert [name for name, *_ in checks.CHECKS] == list(dict.fromkeys(finding.check for finding in findings))


def without_a_field(name: str) -> dict[str, Any]:
    old = yaml.safe_load((ROOT / "crds" / "finetunejobs.spottune.dev.yaml").read_text())
    del old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["method"]["properties"][name]
    return dict(old)


KEYLESS = {"operator": "Exists"}
DRAIN = {"key": "karpenter.sh/disrupted", "operator": "Exists"}
NONE = {"currentHealthy": 1, "disruptionsAllowed": 0}


@pytest.mark.parametrize(
    ("name", "level", "change"),
    [
        ("crd", Level.PROBLEM, {"crds": []}),
        ("crd", Level.PROBLEM, {"crds": [without_a_field("rank")]}),
        ("crd", Level.PROBLEM, {"crds": [{"spec": {"versions": [{"name": "v1alpha1", "served": False}]}}]}),
        ("operator", Level.PROBLEM, {"operators": []}),
        ("operator", Level.PROBLEM, {"operators": [operator(ready=0)]}),
        ("operator", Level.PROBLEM, {"leases": []}),
        ("operator", Level.PROBLEM, {"leases": [lease(holder="")]}),
        ("operator", Level.PROBLEM, {"leases": [lease("2026-11-29T00:58:00.000000Z")]}),
        ("operator", Level.OK, {"leases": [lease("2026-11-29T00:59:30.000000Z")]}),
        ("agent", Level.WARNING, {"daemon_sets": []}),
        ("agent", Level.PROBLEM, {"daemon_sets": [], "operators": [operator()]}),
        ("agent", Level.PROBLEM, {"agents": [agent("a")]}),
        ("agent", Level.PROBLEM, {"agents": [agent("a"), agent("b", "False")]}),
        ("agent", Level.PROBLEM, {"nodes": [{"metadata": {"name": "m", "labels": {"eks.amazonaws.com/capacityType": "SPOT"}}}]}),
        ("node pools", Level.PROBLEM, {"node_pools": [pool(None)]}),
        ("node pools", Level.PROBLEM, {"node_pools": [pool("90s")]}),
        ("node pools", Level.OK, {"node_pools": [pool("1m45s")]}),
        ("node pools", Level.WARNING, {"node_pools": [pool("10m")]}),
        ("node pools", Level.WARNING, {"node_pools": [pool(None, "on-demand")]}),
        ("node pools", Level.OK, {"node_pools": Unread(404)}),
        ("node pools", Level.WARNING, {"node_pools": [pool(None)], "operators": [operator(DO_NOT_DISRUPT="false")]}),
        (
            "node pools",
            Level.OK,
            {"node_pools": [pool(None, consolidationPolicy="WhenEmpty")], "operators": [operator(DO_NOT_DISRUPT="false")]},
        ),
        ("node pools", Level.OK, {"node_pools": [pool(None, budgets=[{"nodes": "0"}])], "operators": [operator(DO_NOT_DISRUPT="false")]}),
        ("tolerations", Level.PROBLEM, {"trainers": [trainer(KEYLESS)]}),
        ("tolerations", Level.PROBLEM, {"trainers": [trainer(DRAIN | {"effect": "NoSchedule"})]}),
        ("tolerations", Level.OK, {"trainers": [trainer(KEYLESS | {"effect": "NoExecute"})]}),
        ("tolerations", Level.PROBLEM, {"jobs": [job(DRAIN)]}),
        ("disruption budgets", Level.PROBLEM, {"budgets": [budget(maxUnavailable=0)]}),
        ("disruption budgets", Level.PROBLEM, {"budgets": [budget(minAvailable="100%")]}),
        ("disruption budgets", Level.PROBLEM, {"budgets": [budget(minAvailable=1)]}),
        ("disruption budgets", Level.PROBLEM, {"budgets": [budget({}, maxUnavailable="0%")]}),
        ("disruption budgets", Level.PROBLEM, {"budgets": [budget(maxUnavailable=1, status=NONE)]}),
        ("disruption budgets", Level.OK, {"budgets": [budget(maxUnavailable=0, namespace="team-b")]}),
        ("disruption budgets", Level.OK, {"budgets": [budget({"matchLabels": {"team": "b"}}, maxUnavailable=0)]}),
        (
            "disruption budgets",
            Level.OK,
            {"budgets": [budget({"matchExpressions": [{"key": "spottune.dev/job", "operator": "DoesNotExist"}]}, maxUnavailable=0)]},
        ),
        ("queue", Level.WARNING, {"operators": [operator()]}),
        ("queue", Level.PROBLEM, {"karpenters": [deployment("karpenter", INTERRUPTION_QUEUE="spottune-eu-1")]}),
        ("queue", Level.OK, {"karpenters": []}),
        ("tokens", Level.WARNING, {"trainers": [trainer(automountServiceAccountToken=True)]}),
        ("policies", Level.PROBLEM, policies("spottune-jobs")),
        ("policies", Level.WARNING, policies("spottune-agent")),
        ("policies", Level.PROBLEM, {"bindings": []}),
        ("policies", Level.OK, {"daemon_sets": [], **policies("spottune-jobs")}),
        ("checkpoints", Level.WARNING, {"jobs": [job(fits="False")]}),
    ],
)
def test_a_check_sees_what_is_wrong_and_only_that(name: str, level: Level, change: dict[str, Any]) -> None:
    changed = replace(HEALTHY, **change)
    assert worst(changed, name) is level
    assert all(finding.remedy for finding in examine(changed) if finding.level is not Level.OK)


@pytest.mark.parametrize("kind", sorted(set(checks.RESOURCES)))
def test_what_may_not_be_read_is_said_and_nothing_is_claimed_of_it(kind: str) -> None:
    findings = examine(replace(HEALTHY, **{kind: Unread(403)}))
    said = [f for f in findings if f.message.startswith("not checked") and checks.RESOURCES[kind] in f.message]
    assert {f.check for f in said} == {name for name, needs, _ in checks.CHECKS if kind in needs}
    assert {f.level for f in said} == {Level.WARNING}


@pytest.mark.parametrize(("text", "value"), [("120s", 120), ("1m40s", 100), ("1h", 3600), ("Never", None), ("5", None), ("1.5m", 90)])
def test_durations_are_read_as_go_writes_them(text: str, value: float | None) -> None:
    assert checks.seconds(text) == value
