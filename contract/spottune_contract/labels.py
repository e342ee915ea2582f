"""Names in Kubernetes metadata that more than one program reads or writes."""

from __future__ import annotations

GROUP = "spottune.dev"
API_VERSION = "v1alpha1"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"

JOB = "spottune.dev/job"
"""Label: name of the FineTuneJob. Written by the operator on every trainer pod; the agent may delete only pods that bear it."""

EPOCH = "spottune.dev/epoch"
"""Label: attempt number, decimal. A pod without it is not an attempt of ours."""

RANK = "spottune.dev/rank"
"""Label: rank of the pod within its attempt, decimal, 0-based."""

COMPONENT = "app.kubernetes.io/component"
"""Label: `trainer`, `operator` or `agent`."""

POOL = "spottune.dev/pool"
"""Annotation: the pool the attempt was sent to, `<instance-type>/<zone>/<capacity-type>`; empty when no pool was chosen."""

TRAINER_CONTAINER = "trainer"
"""Name of the only container of a trainer pod."""

TRAINER_PORT = 8471
"""TCP port of the trainer's HTTP server (`/progress`, `/metrics`, `/healthz`, `POST /checkpoint`)."""


def pod_name(job: str, epoch: int, rank: int = 0) -> str:
    """Deterministic pod name of one rank of one attempt: creating it twice is a conflict, never a second pod."""
    return f"{job}-e{epoch}-{rank}"
