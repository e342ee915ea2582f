"""Settings of the operator process: flags, or environment variables of the same name (`--sqs-queue-url` is SPOTTUNE_OPERATOR_SQS_QUEUE_URL)."""

from __future__ import annotations

import argparse
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spottune_contract.labels import TRAINER_PORT
from spottune_operator.leadership import LEASE_SECONDS
from spottune_operator.manifests import TrainerDefaults
from spottune_operator.notices.sqs import QueueSettings

PREFIX = "SPOTTUNE_OPERATOR_"


@dataclass(frozen=True)
class Config:
    """Everything that differs between installations."""

    trainers: TrainerDefaults
    queue: QueueSettings | None
    """None: no SQS; notices come by the node agent and by SIGTERM alone."""
    account: str
    """AWS account whose events count; empty: any."""
    kubeconfig: str
    """Empty: the pod's service account."""
    namespace: str
    """Where the operator's Lease is."""
    identity: str
    """Tells this operator from others beside it."""
    lease_seconds: float
    host: str
    port: int
    resync_seconds: float
    poll_seconds: float
    polls_per_second: float
    unreachable_grace_seconds: float
    trainer_port: int
    log_level: str


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Read flags, then environment variables, then defaults. Exits with a usage message for anything wrong."""
    parser = argparse.ArgumentParser(prog="spottune_operator", description="The SpotTune operator.")

    def option(name: str, text: str, default: str = "", choices: Sequence[str] | None = None) -> None:
        variable = PREFIX + name.upper().replace("-", "_")
        parser.add_argument(f"--{name}", default=environ.get(variable, default), choices=choices, help=f"{text} [{variable}]")

    option("cluster-name", "name of this cluster: part of every job's storage prefix (required)")
    option("trainer-image", "image of the trainer (required)")
    option("trainer-image-pull-policy", "when nodes pull it", "IfNotPresent", ("Always", "IfNotPresent", "Never"))
    option("trainer-image-pull-secrets", "names of pull secrets, separated by commas")
    option("trainer-resources", "default resources of the trainer container, as JSON", "{}")
    option("trainer-log-level", "log level of trainers", "info", ("debug", "info", "warning", "error"))
    option("do-not-disrupt", "keep Karpenter from consolidating nodes with a running attempt", "true", ("true", "false"))
    option("sqs-queue-url", "queue with EventBridge events about EC2 instances; empty: none")
    option("sqs-region", "region of the queue", "us-east-1")
    option("sqs-endpoint", "endpoint of an SQS-compatible service; empty: AWS")
    option("aws-account", "AWS account whose events count; empty: any")
    option("kubeconfig", "kubeconfig file; empty: the pod's service account")
    option("namespace", "namespace of the operator, where its Lease is (required)")
    option("identity", "name of this operator in the Lease; empty: the host's, which is the pod's")
    option("lease-seconds", "a leader that is silent for so long is replaced", f"{LEASE_SECONDS:g}")
    option("host", "address of /healthz, /readyz and /metrics", "0.0.0.0")  # noqa: S104 (the kubelet probes the pod's address)
    option("port", "port of /healthz, /readyz and /metrics", "8080")
    option("resync-seconds", "time between live lists", "10")
    option("poll-seconds", "time between questions to a running trainer, where there are few", "5")
    option("polls-per-second", "questions to all trainers together, at most; each is asked every minute all the same", "200")
    option(
        "unreachable-grace-seconds",
        "a node may be not ready, or a deleted pod be overdue, for so long before its trainer is replaced",
        "60",
    )
    option("trainer-port", "port of the trainers' HTTP server", str(TRAINER_PORT))
    option("log-level", "log level", "info", ("debug", "info", "warning", "error"))
    values = parser.parse_args(arguments)
    for required in ("cluster_name", "trainer_image", "namespace"):
        if not getattr(values, required):
            parser.error(f"--{required.replace('_', '-')} (or {PREFIX}{required.upper()}) is required")
    try:
        return _config(values)
    except ValueError as error:
        parser.error(str(error))


def _config(values: argparse.Namespace) -> Config:
    resources = json.loads(values.trainer_resources)
    if not isinstance(resources, dict) or not resources.keys() <= {"requests", "limits"}:
        raise ValueError("--trainer-resources must be a JSON object with requests and limits")
    queue = QueueSettings(values.sqs_queue_url, values.sqs_region, values.sqs_endpoint) if values.sqs_queue_url else None
    return Config(
        trainers=TrainerDefaults(
            cluster=values.cluster_name,
            image=values.trainer_image,
            image_pull_policy=values.trainer_image_pull_policy,
            image_pull_secrets=tuple(filter(None, values.trainer_image_pull_secrets.split(","))),
            resources=resources,
            do_not_disrupt=values.do_not_disrupt == "true",
            log_level=values.trainer_log_level,
        ),
        queue=queue,
        account=values.aws_account,
        kubeconfig=values.kubeconfig,
        namespace=values.namespace,
        identity=values.identity or socket.gethostname(),
        lease_seconds=_lease_seconds(values.lease_seconds),
        host=values.host,
        port=int(values.port),
        resync_seconds=float(values.resync_seconds),
        poll_seconds=float(values.poll_seconds),
        polls_per_second=_positive(values.polls_per_second),
        unreachable_grace_seconds=float(values.unreachable_grace_seconds),
        trainer_port=int(values.trainer_port),
        log_level=values.log_level,
    )


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise ValueError("--polls-per-second must be above 0")
    return value


def _lease_seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 3600 or seconds != int(seconds):
        raise ValueError("--lease-seconds must be a whole number from 1 to 3600")
    return seconds
