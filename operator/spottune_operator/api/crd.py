"""The CustomResourceDefinition, made from the types: `python -m spottune_operator.api.crd --write` or `--check`.

Structural, typed to the last field: what pydantic's JSON Schema says and a CRD cannot (references, `anyOf` with null, `const`,
patterns of keys) is rewritten here. The patterns of label and annotation keys are left to the types and to the pod's own
validation, because a pattern over keys of unbounded length exceeds the API server's cost limit for CEL.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from spottune_contract.labels import API_VERSION, GROUP, KIND, PLURAL
from spottune_operator.api.cel import LIST_TYPES, RULES
from spottune_operator.api.v1alpha1 import FineTuneJobSpec, FineTuneJobStatus

Schema = dict[str, Any]

ROOT = Path(__file__).resolve().parents[3]
NAME = f"{PLURAL}.{GROUP}"
FILES = (ROOT / "crds" / f"{NAME}.yaml", ROOT / "charts" / "spottune" / "crds" / f"{NAME}.yaml")
HEADER = "# Generated from the types by `python -m spottune_operator.api.crd --write`; do not edit.\n"

_COPIED = ("type", "format", "enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "minimum", "maximum")

COLUMNS: tuple[tuple[str, str, str, str, int], ...] = (
    ("Phase", "string", ".status.phase", "Where the job is", 0),
    ("Step", "integer", ".status.step", "Finished optimizer steps", 0),
    ("%", "integer", ".status.percent", "Finished part", 0),
    ("ETA", "string", ".status.eta", "When it is done if nothing happens", 0),
    ("Loss", "number", ".status.loss", "Training loss of the last step", 0),
    ("Capacity", "string", ".status.pool", "Pool of the current attempt: instance type / zone / capacity type", 0),
    ("Zone", "string", ".status.zone", "Zone of the current pod", 0),
    ("Interruptions", "integer", ".status.interruptions", "Attempts that the machine or the cluster took away", 0),
    ("Age", "date", ".metadata.creationTimestamp", "", 0),
    ("Attempt", "integer", ".status.attempt", "Number of the current attempt", 1),
    ("Node", "string", ".status.node", "Node of the current pod", 1),
    ("Steps", "integer", ".status.totalSteps", "Optimizer steps in all", 1),
    ("Eval Loss", "number", ".status.evalLoss", "Loss of the last evaluation", 1),
    ("Output", "string", ".status.output", "Where the finished adapter is", 1),
    ("Reason", "string", ".status.conditions[?(@.type=='Complete')].reason", "Why the job is or is not complete", 1),
)


def crd() -> dict[str, Any]:
    """The whole CustomResourceDefinition."""
    root: Schema = {
        "type": "object",
        "description": "A fine-tuning run on interruptible machines that finishes as if nothing had happened.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _model(FineTuneJobSpec, "spec"),
            "status": _model(FineTuneJobStatus, "status"),
        },
    } | _rules("")
    columns = [
        {"name": name, "type": kind, "jsonPath": path}
        | ({"description": text} if text else {})
        | ({"priority": priority} if priority else {})
        for name, kind, path, text, priority in COLUMNS
    ]
    version = {
        "name": API_VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": root},
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "names": {"kind": KIND, "listKind": f"{KIND}List", "plural": PLURAL, "singular": KIND.lower(), "shortNames": ["ftj"]},
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def render() -> str:
    """The file's text."""
    return HEADER + yaml.safe_dump(crd(), sort_keys=False, width=140, allow_unicode=True)


def stale() -> list[Path]:
    """Files that are not what the types say."""
    text = render()
    return [path for path in FILES if not path.is_file() or path.read_text() != text]


def _model(model: type[BaseModel], path: str) -> Schema:
    document = model.model_json_schema(by_alias=True, mode="validation")
    return _node(document, document.get("$defs", {}), path)


def _node(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    """One node of the schema as a CRD can say it."""
    if "allOf" in schema and len(schema["allOf"]) == 1:
        schema = {**schema["allOf"][0], **{k: v for k, v in schema.items() if k != "allOf"}}
    if "$ref" in schema:
        target = definitions[schema["$ref"].rsplit("/", 1)[1]]
        own = {k: v for k, v in schema.items() if k != "$ref"}
        return _node({**target, **own, "description": _described(schema, target, path)}, definitions, path)
    if schema.get("x-kubernetes-int-or-string"):
        return _int_or_string(schema)
    if "anyOf" in schema:
        return _optional(schema, definitions, path)
    node: Schema = {"description": schema["description"]} if schema.get("description") else {}
    node |= {name: schema[name] for name in _COPIED if name in schema}
    if "const" in schema:
        node["enum"] = [schema["const"]]
    if node.get("type") == "integer":
        node["format"] = "int64"
    for bound, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in schema:
            node |= {limit: schema[bound], bound: True}
    if node.get("type") == "array":
        node["items"] = _node(schema["items"], definitions, f"{path}[]")
    if node.get("type") == "object":
        node |= _object(schema, definitions, path)
    default = schema.get("default")
    # A status has no defaults: what the operator did not write is not there. An object's default is made of its fields' own.
    if default is not None and not path.startswith("status"):
        node["default"] = {} if isinstance(default, dict) else default
    return node | LIST_TYPES.get(path, {}) | _rules(path)


def _object(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    if "properties" in schema:
        node: Schema = {"properties": {n: _node(p, definitions, f"{path}.{n}") for n, p in schema["properties"].items()}}
        return ({"required": list(schema["required"])} if schema.get("required") else {}) | node
    patterns = list(schema.get("patternProperties", {}).values())
    values = patterns[0] if patterns else schema["additionalProperties"]
    return {"additionalProperties": _node(values, definitions, f"{path}{{}}")}


def _optional(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    """`anyOf` something and null. Null itself may only be written where it differs from leaving the field out."""
    (inner,) = [option for option in schema["anyOf"] if option.get("type") != "null"]
    node = _node({**inner, **{k: v for k, v in schema.items() if k != "anyOf"}}, definitions, path)
    return {**node, "nullable": True} if schema.get("default") is not None else node


def _int_or_string(schema: Mapping[str, Any]) -> Schema:
    texts = next(option for option in schema["anyOf"] if option.get("type") == "string")
    limits = {name: texts[name] for name in ("pattern", "maxLength") if name in texts}
    return {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]} | limits


def _described(field: Mapping[str, Any], target: Mapping[str, Any], path: str) -> str:
    """The field's own words; in a spec also those of its type, where they say more."""
    own, general = field.get("description", ""), target.get("description", "")
    if not own or (path.startswith("spec") and general.startswith(own.rstrip("."))):
        return str(general)
    if not path.startswith("spec") or own.startswith(general.rstrip(".")):
        return str(own)
    return f"{own} {general}"


def _rules(path: str) -> Schema:
    rules = RULES.get(path, ())
    return {"x-kubernetes-validations": [{"rule": r.rule, "message": r.message} for r in rules]} if rules else {}


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or say which are stale. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m spottune_operator.api.crd", description=__doc__)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--write", action="store_true", help="write the files")
    group.add_argument("--check", action="store_true", help="exit 1 if a file is not what the types say")
    options = parser.parse_args(arguments)
    if options.write:
        for path in FILES:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render())
        return 0
    old = stale()
    for path in old:
        sys.stderr.write(f"{path} is not current: run python -m spottune_operator.api.crd --write\n")
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
