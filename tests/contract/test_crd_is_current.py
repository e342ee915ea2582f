"""The CRD files are what the types say, and the types' closed lists are consistent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest

from spottune_contract.exitcodes import Verdict
from spottune_operator.api import crd
from spottune_operator.api.cel import LIST_TYPES, RULES
from spottune_operator.api.reasons import Reason


def nodes(schema: dict[str, Any], path: str = "") -> Any:
    yield path, schema
    for name, child in (schema.get("properties") or {}).items():
        yield from nodes(child, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


def schema() -> dict[str, Any]:
    root: dict[str, Any] = crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return root


def test_the_files_are_what_the_types_say() -> None:
    assert crd.stale() == [], "run: python -m spottune_operator.api.crd --write"


def test_both_files_are_the_same() -> None:
    first, second = (path.read_text() for path in crd.FILES)
    assert first == second


def test_every_field_is_typed_and_described() -> None:
    own = [(path, node) for path, node in nodes(schema()) if path not in ("", "apiVersion", "kind", "metadata")]
    assert len(own) > 120
    for path, node in own:
        assert "x-kubernetes-preserve-unknown-fields" not in node, path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        if not path.endswith(("[]", "{}")):
            assert node.get("description"), f"{path} has no description for kubectl explain"


def test_no_explanation_says_the_same_twice() -> None:
    for path, node in nodes(schema()):
        words = re.findall(r"[^.:;]+[.:;]", node.get("description", ""))
        beginnings = [" ".join(sentence.split()[:4]) for sentence in words if len(sentence.split()) > 3]
        assert len(beginnings) == len(set(beginnings)), f"{path}: {node['description']}"


def test_every_list_map_and_text_under_a_rule_has_a_limit() -> None:
    for path, node in nodes(schema()):
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if node.get("type") == "string" and path.startswith(("spec", "status")) and "enum" not in node and "pattern" not in node:
            assert "maxLength" in node or node.get("format") == "date-time", path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


def test_every_rule_belongs_to_a_node() -> None:
    paths = {path for path, _ in nodes(schema())}
    assert set(RULES) <= paths
    assert set(LIST_TYPES) <= paths


def test_every_rule_names_a_field_and_a_remedy() -> None:
    for path, rules in RULES.items():
        for rule in rules:
            assert any(word in rule.message for word in ("spec.", "status.", "metadata.")), rule.message
            assert path.split(".")[0] in rule.message or path == ""
            assert len(rule.message) > 40


CHANGEABLE = {
    "spec.training.microBatchSize": "the same computation in other portions",
    "spec.checkpoint.endpoint": "another name of the same store",
    "spec.checkpoint.region": "the same",
    "spec.checkpoint.credentialsSecret": "keys are rotated",
    "spec.checkpoint.interval": "how often, not what",
    "spec.checkpoint.everySteps": "how often, not what",
    "spec.checkpoint.keepLast": "how much is kept",
    "spec.capacity": "where",
    "spec.limits": "when to give up",
    "spec.suspend": "a wish for now",
    "spec.cancel": "a wish for ever (it cannot be taken back)",
    "spec.maxDuration": "when to give up",
    "spec.handover": "how one attempt follows another",
    "spec.onRebalance": "when to go elsewhere",
    "spec.retryToken": "made to be changed",
    "spec.podOverrides": "how the pod is placed and made",
}
"""Fields, or whole sections, that may be edited while the job runs, and why that does not change what is computed."""


def test_every_field_of_the_spec_is_either_immutable_or_changeable_for_a_reason() -> None:
    fixed = {path for path, rules in RULES.items() for rule in rules if rule.rule == "self == oldSelf"}
    fixed |= {
        path for path, _ in nodes(schema()) if any(f"{path} cannot be changed" in r.message for rules in RULES.values() for r in rules)
    }
    leaves = {
        path
        for path, node in nodes(schema())
        if path.startswith("spec.") and "properties" not in node and not path.endswith(("[]", "{}")) and "[]." not in path
    }

    def within(path: str, sections: Iterable[str]) -> bool:
        return any(path == section or path.startswith(f"{section}.") for section in sections)

    assert {path for path in leaves if not within(path, fixed) and not within(path, CHANGEABLE)} == set()
    assert {path for path in leaves if within(path, fixed) and within(path, CHANGEABLE)} == set()
    assert all(any(within(path, {section}) for path in leaves) for section in CHANGEABLE)


def test_a_status_has_no_defaults() -> None:
    for path, node in nodes(schema()):
        if path.startswith("status"):
            assert "default" not in node, path


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_of_the_contract_is_a_reason(verdict: Verdict) -> None:
    assert Reason(verdict.value)
