"""What `spottune doctor` looks for in a cluster. Pure: objects of the API as JSON in, findings out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from spottune_contract.labels import API_VERSION, COMPONENT, GROUP, JOB, PLURAL
from spottune_contract.runspec import RunSpec

Json = Mapping[str, Any]

TRAINER_GRACE = 100
"""Seconds from SIGTERM to SIGKILL of a trainer pod."""
NOTICE = 120
"""Seconds from a spot notice to the end of the machine."""
LEASE_LATE = 4
"""A Lease that was not renewed for so many times its duration is nobody's; one that changes hands is late by less."""
CAPACITY_TYPE, DISRUPTED, DO_NOT_DISRUPT = "karpenter.sh/capacity-type", "karpenter.sh/disrupted", "karpenter.sh/do-not-disrupt"
SPOT_LABELS = {CAPACITY_TYPE: "spot", "eks.amazonaws.com/capacityType": "SPOT"}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_OPERATOR_VARIABLE = "SPOTTUNE_OPERATOR_"


class Level(StrEnum):
    """How bad it is; only a problem makes the exit code 1."""

    OK = "OK"
    WARNING = "WARNING"
    PROBLEM = "PROBLEM"


@dataclass(frozen=True)
class Finding:
    """One answer of one check."""

    check: str
    level: Level
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Unread:
    """A kind of objects that could not be listed."""

    status: int
    """403: not allowed; 404: the cluster does not have that kind."""


Listing = Sequence[Json] | Unread


@dataclass(frozen=True)
class Cluster:
    """What was read. `trainers` and `agents` are pods, `now` is seconds since the epoch."""

    now: float
    crds: Listing = ()
    operators: Listing = ()
    leases: Listing = ()
    daemon_sets: Listing = ()
    agents: Listing = ()
    nodes: Listing = ()
    node_pools: Listing = Unread(404)
    karpenters: Listing = ()
    jobs: Listing = ()
    trainers: Listing = ()
    budgets: Listing = ()
    policies: Listing = ()
    bindings: Listing = ()


def examine(cluster: Cluster) -> list[Finding]:
    """All checks, in the order in which to mend things. A check whose objects may not be read says so and is passed over."""
    found: list[Finding] = []
    for name, needs, check in CHECKS:
        unread = [kind for kind in needs if getattr(cluster, kind) == Unread(403)]
        if unread:
            kinds = ", ".join(RESOURCES[kind] for kind in unread)
            found.append(Finding(name, Level.WARNING, f"not checked: you may not list {kinds}", "ask for the rights of docs/cli.md"))
            continue
        answers = list(check(cluster))
        found += [Finding(name, *answer) for answer in answers]
    return found


Answer = tuple[Level, str, str]
_ok: Callable[[str], Answer] = lambda message: (Level.OK, message, "")  # noqa: E731


def crd_served(cluster: Cluster) -> Iterator[Answer]:
    """The CRD is there, serves our version and knows every field of a run that this release knows."""
    crd = next(iter(_items(cluster.crds)), None)
    apply = "kubectl apply --server-side -f charts/spottune/crds/ (Helm never changes a CRD)"
    if crd is None:
        yield Level.PROBLEM, f"the CRD {PLURAL}.{GROUP} is not installed", apply
        return
    version = next((v for v in crd["spec"]["versions"] if v["name"] == API_VERSION and v.get("served")), None)
    if version is None:
        yield Level.PROBLEM, f"the CRD does not serve {API_VERSION}", apply
        return
    known = version.get("schema", {}).get("openAPIV3Schema", {}).get("properties", {}).get("spec", {})
    schema = RunSpec.model_json_schema(by_alias=True)
    missing = sorted(_missing(schema, schema.get("$defs", {}), known, "spec"))
    if missing:
        yield Level.PROBLEM, f"the CRD is older than this command: it lacks {', '.join(missing[:5])}", apply
    else:
        yield _ok(f"{API_VERSION} is served and has every field of this release")


def operator_works(cluster: Cluster) -> Iterator[Answer]:
    """A ready operator that renews its Lease."""
    deployments = _items(cluster.operators)
    if not deployments:
        yield Level.PROBLEM, "there is no operator", "helm upgrade --install spottune charts/spottune"
    for deployment in deployments:
        where, name = deployment["metadata"]["namespace"], _name(deployment)
        logs = f"kubectl -n {where} logs deployment/{deployment['metadata']['name']}"
        if not deployment.get("status", {}).get("readyReplicas"):
            yield Level.PROBLEM, f"Deployment {name} has no ready pod; trainers go on, but nothing new starts", logs
        lease = next((item for item in _items(cluster.leases) if item["metadata"]["namespace"] == where), None)
        spec = (lease or {}).get("spec", {})
        if not spec.get("holderIdentity") or not spec.get("renewTime"):
            yield Level.PROBLEM, f"nobody holds the Lease {name}: no operator acts", logs
            continue
        age = cluster.now - datetime.fromisoformat(spec["renewTime"]).timestamp()
        if age > LEASE_LATE * spec.get("leaseDurationSeconds", 15):
            yield Level.PROBLEM, f"the Lease {name} was not renewed for {age:.0f} s: no operator acts", logs
        elif deployment.get("status", {}).get("readyReplicas"):
            yield _ok(f"{name} is ready and {spec['holderIdentity']} leads")


def agents_run(cluster: Cluster) -> Iterator[Answer]:
    """A ready agent on every node that can be interrupted."""
    if not _items(cluster.daemon_sets):
        other = any(_variable(d, "SQS_QUEUE_URL") for d in _items(cluster.operators))
        level, rest = (Level.WARNING, "only by SQS") if other else (Level.PROBLEM, "not at all, but for the drain's SIGTERM")
        yield level, f"there is no node agent: notices are heard {rest}", "set agent.enabled: true in the chart"
        return
    interruptible = {n["metadata"]["name"] for n in _items(cluster.nodes) if _is_spot(n)}
    served = {pod["spec"].get("nodeName") for pod in _items(cluster.agents) if _is_ready(pod)}
    without = sorted(interruptible - served)
    if without:
        yield (
            Level.PROBLEM,
            f"no ready agent on {len(without)} of {len(interruptible)} spot nodes: {', '.join(without[:5])}",
            "kubectl describe the agent's pod there; agent.nodeSelectorTerms of the chart must match the node's labels",
        )
    else:
        yield _ok(f"ready on all {len(interruptible)} spot nodes")


def node_pools_drain(cluster: Cluster) -> Iterator[Answer]:
    """A NodePool of spot evicts trainers in time although they bear do-not-disrupt (trap: without the field it never does)."""
    pools = [pool for pool in _items(cluster.node_pools) if _takes_spot(pool)]
    held = any(_variable(d, "DO_NOT_DISRUPT", "true") == "true" for d in _items(cluster.operators)) or any(
        DO_NOT_DISRUPT in pod["metadata"].get("annotations", {}) for pod in _items(cluster.trainers)
    )
    remedy = f"set spec.template.spec.terminationGracePeriod: {NOTICE}s"
    for pool in pools:
        name, text = pool["metadata"]["name"], pool["spec"]["template"]["spec"].get("terminationGracePeriod")
        period = seconds(text) if text else None
        disruption = pool["spec"].get("disruption", {})
        if held and period is None:
            yield (
                Level.PROBLEM,
                f"NodePool {name} has no terminationGracePeriod: Karpenter never evicts a pod with {DO_NOT_DISRUPT} on a spot notice",
                remedy,
            )
        elif period is not None and period < TRAINER_GRACE:
            yield Level.PROBLEM, f"NodePool {name} gives pods {period:.0f} s to end, trainers may need {TRAINER_GRACE}", remedy
        elif held and period is not None and period > NOTICE:
            late = f"{period - TRAINER_GRACE:.0f} s after the notice, the machine ends after {NOTICE}"
            yield Level.WARNING, f"NodePool {name}: Karpenter evicts a trainer {late}; only agent and operator are in time", remedy
        elif not held and disruption.get("consolidationPolicy", "WhenEmptyOrUnderutilized") != "WhenEmpty" and not _frozen(disruption):
            yield (
                Level.WARNING,
                f"NodePool {name} moves running trainers to cheaper nodes, and each move costs a start",
                "set spec.disruption.consolidationPolicy: WhenEmpty, or trainer.doNotDisrupt: true in the chart",
            )
        else:
            yield _ok(f"NodePool {name} lets trainers end in time")
    if not pools and not isinstance(cluster.node_pools, Unread):
        yield Level.WARNING, "no Karpenter NodePool has karpenter.sh/capacity-type: spot", "see examples/karpenter/spot.yaml"


def trainers_can_be_drained(cluster: Cluster) -> Iterator[Answer]:
    """No trainer tolerates the taint of Karpenter's drain: such a pod gets no SIGTERM from it."""
    bad = 0
    for pod in _items(cluster.trainers):
        if any(map(_tolerates_drain, pod["spec"].get("tolerations", ()))):
            bad += 1
            yield (
                Level.PROBLEM,
                f"pod {_name(pod)} tolerates {DISRUPTED}: Karpenter will not drain it",
                "no job can say so without a key: exempt pods with the label spottune.dev/job from the mutating webhook that adds it",
            )
    for job in _items(cluster.jobs):
        if any(map(_tolerates_drain, (job["spec"].get("podOverrides") or {}).get("tolerations", ()))):
            bad += 1
            yield (
                Level.PROBLEM,
                f"job {_name(job)} tolerates {DISRUPTED}: Karpenter will not drain its pods",
                "remove it from spec.podOverrides.tolerations",
            )
    if not bad:
        yield _ok("no trainer tolerates the taint of a drain")


def budgets_allow(cluster: Cluster) -> Iterator[Answer]:
    """No PodDisruptionBudget keeps a trainer from being evicted."""
    bad = 0
    trainers = _items(cluster.trainers)
    for budget in _items(cluster.budgets):
        spot = budget["metadata"]["namespace"]
        chosen = [pod for pod in trainers if pod["metadata"]["namespace"] == spot and _selects(budget, pod)]
        if chosen and _blocks(budget, len(chosen)):
            bad += 1
            yield (
                Level.PROBLEM,
                f"PodDisruptionBudget {_name(budget)} selects {_name(chosen[0])} and allows no disruption: a drain waits for ever",
                "exclude pods with the label spottune.dev/job from its selector, or set maxUnavailable: 1",
            )
    if not bad:
        yield _ok("no PodDisruptionBudget holds a trainer")


def queue_is_our_own(cluster: Cluster) -> Iterator[Answer]:
    """Operator and Karpenter read different queues: each deletes what it reads."""
    for deployment in _items(cluster.operators):
        url = _variable(deployment, "SQS_QUEUE_URL")
        theirs = {_environment(k).get("INTERRUPTION_QUEUE", "") for k in _items(cluster.karpenters)} - {""}
        if not url:
            yield Level.WARNING, "no SQS queue is set: notices come by the node agent alone", "examples/aws makes one; set sqs.queueURL"
        elif url.rstrip("/").rsplit("/", 1)[-1] in theirs:
            yield (
                Level.PROBLEM,
                f"operator and Karpenter read the same queue {url}: each deletes the other's notices",
                "give SpotTune its own (examples/aws), a second target of the same events",
            )
        else:
            yield _ok("the operator's queue is not Karpenter's")


def trainers_have_no_token(cluster: Cluster) -> Iterator[Answer]:
    """Trainers run without an API token."""
    bad = [pod for pod in _items(cluster.trainers) if pod["spec"].get("automountServiceAccountToken") is not False]
    for pod in bad:
        yield Level.WARNING, f"pod {_name(pod)} has an API token that it does not need", "exempt trainers from the webhook that mounts it"
    if not bad:
        yield _ok("no trainer has an API token")


def policies_bound(cluster: Cluster) -> Iterator[Answer]:
    """The chart's admission policies are there and deny."""
    present = {policy["metadata"]["name"] for policy in _items(cluster.policies)}
    denying = {b["spec"]["policyName"] for b in _items(cluster.bindings) if "Deny" in b["spec"].get("validationActions", ())}
    wanted = {
        "spottune-jobs": (Level.WARNING, "a job may name service accounts and secrets that its author may not use", "jobPolicy.enabled")
    }
    if _items(cluster.daemon_sets):
        wanted["spottune-agent"] = (Level.PROBLEM, "an agent's token may delete any pod of the cluster", "agent.enabled")
    for name, (level, harm, value) in wanted.items():
        if name in present and name in denying:
            yield _ok(f"{name} is bound")
        else:
            what = "is not there" if name not in present else "has no binding that denies"
            yield level, f"ValidatingAdmissionPolicy {name} {what}: {harm}", f"helm upgrade with {value}: true"


def checkpoints_fit(cluster: Cluster) -> Iterator[Answer]:
    """No job's commit takes longer than a notice."""
    bad = 0
    for job in _items(cluster.jobs):
        for condition in (job.get("status") or {}).get("conditions", ()):
            if condition["type"] == "CheckpointFitsNotice" and condition["status"] == "False":
                bad += 1
                yield (
                    Level.WARNING,
                    f"job {_name(job)}: {condition.get('message', '')}",
                    "shorten spec.checkpoint.interval, or give the link more bandwidth",
                )
    if not bad:
        yield _ok("no job's commit is longer than a notice")


CHECKS: tuple[tuple[str, tuple[str, ...], Callable[[Cluster], Iterable[Answer]]], ...] = (
    ("crd", ("crds",), crd_served),
    ("operator", ("operators", "leases"), operator_works),
    ("agent", ("daemon_sets", "agents", "nodes"), agents_run),
    ("node pools", ("node_pools",), node_pools_drain),
    ("tolerations", ("trainers", "jobs"), trainers_can_be_drained),
    ("disruption budgets", ("budgets", "trainers"), budgets_allow),
    ("queue", ("operators", "karpenters"), queue_is_our_own),
    ("tokens", ("trainers",), trainers_have_no_token),
    ("policies", ("policies", "bindings"), policies_bound),
    ("checkpoints", ("jobs",), checkpoints_fit),
)
"""Name, what it must be able to read, and the check."""

RESOURCES = {
    "crds": "customresourcedefinitions",
    "operators": "deployments",
    "leases": "leases",
    "daemon_sets": "daemonsets",
    "agents": "pods",
    "nodes": "nodes",
    "node_pools": "nodepools.karpenter.sh",
    "karpenters": "deployments",
    "jobs": f"{PLURAL}.{GROUP}",
    "trainers": "pods",
    "budgets": "poddisruptionbudgets",
    "policies": "validatingadmissionpolicies",
    "bindings": "validatingadmissionpolicybindings",
}
SELECTORS = {
    "operators": f"app.kubernetes.io/name=spottune,{COMPONENT}=operator",
    "daemon_sets": f"app.kubernetes.io/name=spottune,{COMPONENT}=agent",
    "agents": f"app.kubernetes.io/name=spottune,{COMPONENT}=agent",
    "karpenters": "app.kubernetes.io/name=karpenter",
    "trainers": JOB,
}


def seconds(duration: str) -> float | None:
    """A Go duration such as `1h30m`; None for `Never` and what is no duration."""
    parts = _DURATION.findall(duration)
    return sum(float(n) * _SECONDS[unit] for n, unit in parts) if parts and "".join(map("".join, parts)) == duration else None


def _items(listing: Listing) -> Sequence[Json]:
    return () if isinstance(listing, Unread) else listing


def _name(thing: Json) -> str:
    return f"{thing['metadata'].get('namespace', '')}/{thing['metadata']['name']}"


def _missing(schema: Json, definitions: Json, known: Json, path: str) -> Iterator[str]:
    """Fields of a model that a CRD's node does not have."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[1]]
    for name, field in schema.get("properties", {}).items():
        node = known.get("properties", {}).get(name)
        if node is None:
            yield f"{path}.{name}"
        elif "properties" in node:
            inner = next((o for o in field.get("anyOf", ()) if "$ref" in o), field)
            yield from _missing(inner, definitions, node, f"{path}.{name}")


def _environment(deployment: Json) -> dict[str, str]:
    return {
        variable["name"]: variable.get("value", "")
        for container in deployment["spec"]["template"]["spec"]["containers"]
        for variable in container.get("env", ())
    }


def _variable(operator: Json, name: str, default: str = "") -> str:
    return _environment(operator).get(_OPERATOR_VARIABLE + name, default)


def _is_spot(node: Json) -> bool:
    labels = node["metadata"].get("labels", {})
    return any(labels.get(key) == value for key, value in SPOT_LABELS.items())


def _is_ready(pod: Json) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def _takes_spot(pool: Json) -> bool:
    requirements = pool["spec"]["template"]["spec"].get("requirements", ())
    return any(r["key"] == CAPACITY_TYPE and r["operator"] == "In" and "spot" in r.get("values", ()) for r in requirements)


def _frozen(disruption: Json) -> bool:
    """A budget of no nodes at all times and for all reasons."""
    return any(b.get("nodes") in ("0", "0%") and not b.get("schedule") and not b.get("reasons") for b in disruption.get("budgets", ()))


def _tolerates_drain(toleration: Json) -> bool:
    if toleration.get("effect") not in (None, "", "NoSchedule"):
        return False
    key, exists = toleration.get("key"), toleration.get("operator") == "Exists"
    return exists if not key else key == DISRUPTED and (exists or not toleration.get("value"))


def _selects(budget: Json, pod: Json) -> bool:
    selector, labels = budget["spec"].get("selector"), pod["metadata"].get("labels", {})
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_matches(expression, labels) for expression in selector.get("matchExpressions", ()))


def _matches(expression: Json, labels: Json) -> bool:
    key, values = expression["key"], expression.get("values", ())
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels


def _blocks(budget: Json, pods: int) -> bool:
    """Whether it can never let one of these pods go, or lets none go now although they run."""
    spec, status = budget["spec"], budget.get("status", {})
    if spec.get("maxUnavailable") in (0, "0%"):
        return True
    least = spec.get("minAvailable")
    if least == "100%" or (isinstance(least, int) and least >= pods and least > 0):
        return True
    return bool(status.get("currentHealthy")) and status.get("disruptionsAllowed") == 0
