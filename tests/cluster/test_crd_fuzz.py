"""Generated specs at the real API server: it says yes and no where our judgement in memory does."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from kubernetes import client

from spottune_contract.labels import API_VERSION, GROUP, PLURAL
from tests.fixtures.jobs import job_manifest
from tests.fixtures.specs import specs
from tests.fixtures.structural import admitted

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("part", range(2))
def test_the_api_server_judges_specs_as_the_fuzz_does(finetunejobs: client.CustomObjectsApi, namespace: str, part: int) -> None:
    different: list[tuple[Any, Any]] = []
    answers = set()

    @settings(max_examples=150, deadline=None, derandomize=part == 0, suppress_health_check=list(HealthCheck), database=None)
    @given(specs())
    def run(spec: Any) -> None:
        stored, refusals = admitted(spec)
        manifest = job_manifest(f"fuzz-{random.getrandbits(40)}") | {"spec": spec}
        try:
            created = finetunejobs.create_namespaced_custom_object(
                GROUP, API_VERSION, namespace, PLURAL, manifest, dry_run="All", field_validation="Strict"
            )
        except client.ApiException as error:
            answers.add(error.status)
            if not refusals:
                different.append((spec, error.body))
        else:
            answers.add("yes")
            if refusals:
                different.append((created["spec"], refusals))
            elif created["spec"] != stored:
                different.append((created["spec"], stored))

    run()
    assert not different, "\n".join(f"{real}\n  but {judged}" for real, judged in different[:3])
    assert {"yes", 422} <= answers <= {"yes", 400, 422}
