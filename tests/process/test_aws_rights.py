"""A whole run against a bucket that allows what the role of `examples/aws` allows, and nothing else."""

from __future__ import annotations

import re

import pytest

from spottune_contract.layout import left_key
from tests.fixtures.trainerprocess import Bench
from tests.process.test_handover import finished_as_twin, keys
from tests.storage.fault_proxy import Passing, fault_proxy

pytestmark = [pytest.mark.process, pytest.mark.storage]


def forbidden(request: Passing) -> int | None:
    """Below a job's location everything is written once, and only data and probes are deleted."""
    if not request.key.startswith("jobs/"):
        return None
    deletes_more = request.method == "DELETE" and not re.search(r"/(data|probe)/", request.key)
    return 403 if deletes_more or (request.method == "PUT" and not request.once) else None


def test_a_trainer_overwrites_nothing_and_deletes_only_what_it_may(bench: Bench) -> None:
    with fault_proxy(bench.store) as proxy:
        proxy.refuse = forbidden
        job = bench.job(checkpoint={"endpoint": proxy.endpoint, "everySteps": 1, "keepLast": 2})
        finished_as_twin(job.start(1, handover="Warm").ended(0), bench)
        refused = [request for request in proxy.seen if forbidden(request)]
    assert refused == []
    assert any(request.method == "DELETE" for request in proxy.seen), "it sweeps"
    assert any(key.startswith("tail/") for key in keys(bench, job)), "the log's tail is kept"
    assert left_key(1) in keys(bench, job), "its mark is left"
