"""Generated specs at the real API server: it says yes and no where our judgement in memory does."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from kubernetes import client

from spottune_contract.labels import API_VERSION, GROUP, PLURAL
from tests.fixtures.jobs import job_manifest
from tests.fixtures.specs import MINIMAL, PLACES, put, specs
from tests.fixtures.structural import admitted

pytestmark = pytest.mark.cluster

_NUMBERS = (1.0, -0.0, 0.5, 2**53 - 1.0, 2.0**53, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 1e19, 10**30)
"""Where whole numbers, floating-point numbers and 64 bits part."""


class Judges:
    """The API server beside our judgement in memory."""

    def __init__(self, finetunejobs: client.CustomObjectsApi, namespace: str) -> None:
        self.finetunejobs, self.namespace = finetunejobs, namespace
        self.answers: set[Any] = set()
        self.different: list[str] = []

    def ask(self, spec: Any) -> None:
        """Ask both."""
        stored, refusals = admitted(spec)
        manifest = job_manifest(f"fuzz-{random.getrandbits(40)}") | {"spec": spec}
        try:
            created = self.finetunejobs.create_namespaced_custom_object(
                GROUP, API_VERSION, self.namespace, PLURAL, manifest, dry_run="All", field_validation="Strict"
            )
        except client.ApiException as error:
            self.answers.add(error.status)
            if not refusals:
                self.different.append(f"{spec}\n  but {error.body}")
        else:
            self.answers.add("yes")
            if refusals or _rounded(created["spec"]) != _rounded(stored):
                self.different.append(f"{created['spec']}\n  but {refusals or stored}")

    def agree(self) -> None:
        """Both said the same, and each answer was seen."""
        assert not self.different, "\n".join(self.different[:3])
        assert {"yes", 422} <= self.answers <= {"yes", 400, 422}


def _rounded(value: Any) -> Any:
    """Without the digits of a number that a floating-point number does not have: Go writes zeros there."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(value) if isinstance(value, int) else value


@pytest.fixture
def judges(finetunejobs: client.CustomObjectsApi, namespace: str) -> Judges:
    return Judges(finetunejobs, namespace)


def test_the_api_server_judges_specs_as_the_fuzz_does(judges: Judges) -> None:
    _fuzz(judges, examples=300, derandomize=True)
    judges.agree()


@pytest.mark.long
def test_the_api_server_judges_thousands_of_random_specs_as_the_fuzz_does(judges: Judges) -> None:
    _fuzz(judges, examples=20_000, derandomize=False)
    judges.agree()


def _fuzz(judges: Judges, *, examples: int, derandomize: bool) -> None:
    @settings(max_examples=examples, derandomize=derandomize, suppress_health_check=list(HealthCheck))
    @given(specs())
    def run(spec: Any) -> None:
        judges.ask(spec)

    run()


def test_the_api_server_judges_numbers_as_the_fuzz_does(judges: Judges) -> None:
    """Every number field of the schema: a CI run once met 2**63 in a quantity, which the API server reads as no integer."""
    for path, fitting in PLACES:
        if any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in fitting):
            for number in _NUMBERS:
                spec = copy.deepcopy(MINIMAL)
                put(spec, path, number)
                judges.ask(spec)
    judges.agree()
