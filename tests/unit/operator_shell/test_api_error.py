"""What an answer of the API server means: its texts as a real one gives them."""

from __future__ import annotations

from typing import Any

import pytest

from spottune_operator.cluster import (
    AdmissionDenied,
    AlreadyExists,
    ClusterError,
    Conflict,
    NamespaceTerminating,
    NotFound,
    QuotaExceeded,
    ReferenceMissing,
    RightsMissing,
    Throttled,
    Unavailable,
    api_error,
)

POD = {"name": "job-e1-0", "kind": "pods"}
GOING = {
    **POD,
    "causes": [{"reason": "NamespaceTerminating", "message": "namespace demo is being terminated", "field": "metadata.namespace"}],
}
FORBIDDEN = 'pods "job-e1-0" is forbidden: '

ANSWERS: list[tuple[str, int, str, str, dict[str, Any], type[ClusterError]]] = [
    ("POST", 403, "Forbidden", "exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0", POD, QuotaExceeded),
    ("POST", 403, "Forbidden", "status unknown for quota: q, resources: pods", POD, QuotaExceeded),
    ("POST", 403, "Forbidden", "failed quota: q: must specify limits.cpu for: trainer", POD, AdmissionDenied),
    ("POST", 403, "Forbidden", "maximum cpu usage per Container is 1, but limit is 8", POD, AdmissionDenied),
    ("POST", 403, "Forbidden", 'violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true)', POD, AdmissionDenied),
    ("POST", 403, "Forbidden", 'error looking up service account demo/a: serviceaccount "a" not found', POD, ReferenceMissing),
    ("POST", 403, "Forbidden", "no PriorityClass with name high was found", POD, ReferenceMissing),
    (
        "POST",
        403,
        "Forbidden",
        "unable to create new content in namespace demo because it is being terminated",
        GOING,
        NamespaceTerminating,
    ),
    ("POST", 403, "Forbidden", 'User "x" cannot create resource "pods"', {"kind": "pods"}, RightsMissing),
    ("PUT", 403, "Forbidden", 'User "x" cannot update resource "finetunejobs/status"', {"name": "job"}, RightsMissing),
    ("POST", 422, "Invalid", "spec.containers[0].image: Required value", POD, AdmissionDenied),
    ("POST", 409, "AlreadyExists", 'pods "job-e1-0" already exists', POD, AlreadyExists),
    ("PUT", 409, "Conflict", "the object has been modified", {"name": "job"}, Conflict),
    ("GET", 404, "NotFound", 'pods "job-e1-0" not found', POD, NotFound),
    ("POST", 404, "NotFound", 'namespaces "demo" not found', {"name": "demo", "kind": "namespaces"}, NotFound),
    ("GET", 429, "TooManyRequests", "too many requests", {}, Throttled),
    ("POST", 500, "InternalError", 'failed calling webhook "w": connection refused', {}, Unavailable),
    ("GET", 503, "ServiceUnavailable", "etcd leader changed", {}, Unavailable),
]


@pytest.mark.parametrize(("method", "status", "reason", "text", "details", "meaning"), ANSWERS, ids=[a[3][:40] for a in ANSWERS])
def test_an_answer_has_one_meaning(
    method: str, status: int, reason: str, text: str, details: dict[str, Any], meaning: type[ClusterError]
) -> None:
    message = FORBIDDEN + text if status == 403 and details is POD else text
    error = api_error(method, status, {"reason": reason, "message": message, "details": details})
    assert type(error) is meaning
    assert error.message == message
