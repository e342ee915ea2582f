"""Generated specs through schema, types, planner and manifest: no crash, and what the schema accepts the operator understands."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from pydantic import ValidationError

from spottune_contract.env import RunEnv
from spottune_operator.api.reasons import ConditionType, Reason
from spottune_operator.api.reasons import Phase as JobPhase
from spottune_operator.api.v1alpha1 import STATUS_LIMIT, FineTuneJobSpec, FineTuneJobStatus
from spottune_operator.manifests import TrainerDefaults, trainer_pod
from spottune_operator.observe import observe, read_spec
from spottune_operator.planner.plan import plan
from spottune_operator.planner.statuses import condition, size
from spottune_operator.planner.types import CreatePod, Observed
from tests.fixtures.pod_security import violations
from tests.fixtures.specs import FULL, MINIMAL, specs
from tests.fixtures.structural import admitted

DEFAULTS = TrainerDefaults(cluster="sim", image="registry.example/trainer:1")
NOW = 1_800_000_000.0


def only_keys_are_wrong(document: Any) -> bool:
    """The types alone check the form of label keys: a pattern over keys exceeds the API server's cost limit for CEL."""
    with pytest.raises(ValidationError) as caught:
        FineTuneJobSpec.model_validate(document)
    return all(error["loc"][-1] == "[key]" for error in caught.value.errors())


def check(document: Any) -> str:
    """One spec on its whole way. Returns which way it went."""
    stored, refusals = admitted(document)
    readable, error = read_spec(stored)
    if not refusals and readable is None:
        assert only_keys_are_wrong(stored), f"the schema takes what the types refuse: {error}"
    metadata = {"name": "job", "namespace": "demo", "uid": "uid-1", "generation": 1}
    seen = observe({"metadata": metadata, "spec": stored}, [], {}, now=NOW)
    answer = plan(seen)
    assert size(answer.status) <= STATUS_LIMIT
    assert FineTuneJobStatus.parse(json.loads(json.dumps(answer.status.document()))) == answer.status
    if readable is None:
        assert answer.rule == "spec_cannot_be_read"
        assert (answer.status.phase, answer.action) == (JobPhase.FAILED, None)
        accepted = condition(answer.status, ConditionType.ACCEPTED)
        assert accepted is not None
        assert accepted.reason is Reason.INVALID_SPEC
        assert "spec." in accepted.message
        return "refused by both" if refusals else "refused by the types"
    if readable.cancel or readable.suspend:
        assert answer.action is None
        return "not wanted"
    assert isinstance(answer.action, CreatePod)
    check_pod(seen, answer.action)
    return "refused by the schema" if refusals else "a pod"


def check_pod(seen: Observed, action: CreatePod) -> None:
    assert seen.spec is not None
    manifest = trainer_pod(seen, action, DEFAULTS)
    json.dumps(manifest, allow_nan=False).encode()
    assert violations(manifest) == [], "I17"
    (container,) = manifest["spec"]["containers"]
    environ = {v["name"]: v["value"].replace("$$", "$") for v in container["env"] if "value" in v}
    assert len(environ) == sum("value" in v for v in container["env"]), "a variable is named twice"
    run = RunEnv.from_environ(environ | {"SPOTTUNE_POD_UID": "p", "SPOTTUNE_NODE": "n"})
    assert run.run_spec == seen.spec.run_spec(), "the trainer reads what the user wrote"


_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def test_the_good_specs_become_pods() -> None:
    assert {check(MINIMAL), check(FULL)} == {"a pod"}
    assert {check(MINIMAL | wish) for wish in ({"cancel": True}, {"suspend": True})} == {"not wanted"}


@settings(max_examples=300, suppress_health_check=_QUIET)
@given(specs())
def test_what_the_schema_accepts_the_operator_understands(document: Any) -> None:
    check(document)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("part", range(10))
def test_what_the_schema_accepts_the_operator_understands_in_a_hundred_thousand_specs(part: int) -> None:
    """Ten parts of 10,000, each of its own seed; Hypothesis prints the shortest spec that fails."""
    ways: Counter[str] = Counter()

    @seed(part)
    @settings(
        max_examples=10_000,
        derandomize=False,
        suppress_health_check=_QUIET,
        phases=(Phase.generate, Phase.shrink),
    )
    @given(specs())
    def run(document: Any) -> None:
        ways[check(document)] += 1

    run()
    print(part, dict(ways))
    assert ways["a pod"] > 1000
    assert ways["refused by both"] > 1000
