"""Rules of the CRD that a schema alone cannot say: CEL, checked by the API server. Each message names the field and the remedy.

A path is the way to a schema node, from the root of the object; `[]` is the item of a list.
"""

from __future__ import annotations

from dataclasses import dataclass

from spottune_contract.runspec import CHANGEABLE, TrainingSpec
from spottune_operator.api.v1alpha1 import APPARMOR_PREFIX, RESERVED_ENV_PREFIXES, RESERVED_LABEL_PREFIX

NAME_LIMIT = 52
"""Job names: the pod's name and a label value are made of them, and both end at 63 characters."""

_NEW_JOB = "create a new job for another value"


@dataclass(frozen=True)
class Rule:
    """One validation of one node."""

    rule: str
    message: str


def _immutable(field: str) -> Rule:
    return Rule("self == oldSelf", f"{field} cannot be changed, because it decides what the run computes: {_NEW_JOB}")


def _fixed_training(field: str) -> Rule:
    """A rule of the section, because one of the field itself is not asked when the field is added or removed."""
    return Rule(
        f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        f"spec.training.{field} cannot be changed, because it decides what the run computes: {_NEW_JOB}",
    )


def _a_second_at_least(field: str, example: str) -> Rule:
    return Rule("duration(self) >= duration('1s')", f"{field} must be at least 1s, for example {example}")


def _free_keys(field: str, prefix: str, owner: str) -> Rule:
    return Rule(
        f"self.all(key, !key.startsWith('{prefix}'))",
        f"{field}: keys under {prefix} are reserved for {owner}: choose another prefix",
    )


RULES: dict[str, tuple[Rule, ...]] = {
    "": (
        Rule(
            f"self.metadata.name.size() <= {NAME_LIMIT}",
            f"metadata.name may have at most {NAME_LIMIT} characters, because pods are named after it: choose a shorter name",
        ),
    ),
    "spec": (
        Rule(
            "!has(self.training.evalSteps) || has(self.dataset.evalSource)",
            "spec.training.evalSteps needs evaluation data: set spec.dataset.evalSource, or remove evalSteps",
        ),
        Rule("has(self.output) == has(oldSelf.output)", f"spec.output cannot be added or removed later: {_NEW_JOB}"),
        Rule("has(self.resumeFrom) == has(oldSelf.resumeFrom)", f"spec.resumeFrom cannot be added or removed later: {_NEW_JOB}"),
    ),
    "spec.model": (
        _immutable("spec.model"),
        Rule(
            "!self.source.startsWith('hf://') || has(self.revision)",
            "spec.model.revision is required for an hf:// source: give the 40-digit commit hash",
        ),
        Rule("self.source.startsWith('hf://') || !has(self.revision)", "spec.model.revision only goes with an hf:// source: remove it"),
    ),
    "spec.dataset": (_immutable("spec.dataset"),),
    "spec.dataset.source": (
        Rule(
            "!self.startsWith('hf://')",
            "spec.dataset.source is s3://BUCKET/KEY or an absolute path in the image: download the data set and put it into a bucket",
        ),
    ),
    "spec.dataset.evalSource": (
        Rule(
            "!self.startsWith('hf://')",
            "spec.dataset.evalSource is s3://BUCKET/KEY or an absolute path in the image: download the data set and put it into a bucket",
        ),
    ),
    "spec.method": (_immutable("spec.method"),),
    "spec.training": (
        *(_fixed_training(info.alias or name) for name, info in TrainingSpec.model_fields.items() if name not in CHANGEABLE),
        Rule("has(self.maxSteps) != has(self.epochs)", "give exactly one of spec.training.maxSteps and spec.training.epochs"),
        Rule(
            "self.globalBatchSize % self.microBatchSize == 0",
            "spec.training.microBatchSize must divide spec.training.globalBatchSize: change one of them",
        ),
    ),
    "spec.checkpoint.storage": (
        Rule("self.startsWith('s3://')", "spec.checkpoint.storage has no s3:// scheme: write s3://BUCKET/PREFIX"),
        _immutable("spec.checkpoint.storage"),
    ),
    "spec.checkpoint.interval": (_a_second_at_least("spec.checkpoint.interval", "5m"),),
    "spec.cancel": (
        Rule("self || !oldSelf", "spec.cancel cannot be taken back: create a new job (resuming a paused one is spec.suspend)"),
    ),
    "spec.maxDuration": (_a_second_at_least("spec.maxDuration", "12h"),),
    "spec.output": (_immutable("spec.output"),),
    "spec.resumeFrom": (_immutable("spec.resumeFrom"),),
    "spec.resumeFrom.location": (
        Rule(
            "self.startsWith('s3://')",
            "spec.resumeFrom.location has no s3:// scheme: write status.log.location of the other job",
        ),
    ),
    "spec.output.destination": (Rule("self.startsWith('s3://')", "spec.output.destination has no s3:// scheme: write s3://BUCKET/PREFIX"),),
    "spec.podOverrides.tolerations[]": (
        Rule(
            "self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "spec.podOverrides.tolerations: operator Exists takes no value: remove value, or use operator Equal",
        ),
    ),
    "spec.podOverrides.env[].name": (
        Rule(
            " && ".join(f"!self.startsWith('{prefix}')" for prefix in RESERVED_ENV_PREFIXES),
            f"spec.podOverrides.env: names that begin with {', '.join(RESERVED_ENV_PREFIXES)} are reserved: choose another name",
        ),
    ),
    "spec.podOverrides.labels": (_free_keys("spec.podOverrides.labels", RESERVED_LABEL_PREFIX, "SpotTune"),),
    "spec.podOverrides.annotations": (
        _free_keys("spec.podOverrides.annotations", RESERVED_LABEL_PREFIX, "SpotTune"),
        _free_keys("spec.podOverrides.annotations", APPARMOR_PREFIX, "the installation"),
    ),
    "status": (Rule("!has(oldSelf.attempt) || has(self.attempt)", "status.attempt cannot be removed: restore it"),),
    "status.attempt": (Rule("self >= oldSelf", "status.attempt never decreases: restore the higher number"),),
}

LIST_TYPES: dict[str, dict[str, object]] = {
    "spec.capacity.instanceTypes": {"x-kubernetes-list-type": "set"},
    "spec.capacity.zones": {"x-kubernetes-list-type": "set"},
    "spec.podOverrides.env": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    "status.conditions": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    "status.attempts": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["epoch"]},
    "status.pools": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["pool"]},
}
"""Lists that are sets or maps: duplicates are refused."""
