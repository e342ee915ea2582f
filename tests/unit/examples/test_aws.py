"""The CloudFormation template says what the programs need: the events that the operator reads, the calls that the trainer makes."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from spottune_contract.layout import S3Location, data_key, job_location, probe_key, slot_key, tail_key
from spottune_operator.notices import desk, eventbridge, sqs
from spottune_trainer.checkpoint import s3

ROOT = Path(__file__).resolve().parents[3]
PARAMETERS = {"ClusterName": "eu-1", "StoragePrefix": "checkpoints", "AWS::Partition": "aws", "AWS::Region": "eu-west-1"}
NAMESPACE_TAG = "${aws:PrincipalTag/kubernetes-namespace}"


class _Loader(yaml.SafeLoader):
    """Reads the short forms of CloudFormation's functions; optional parts are there."""


def _function(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        parts = loader.construct_sequence(node, deep=True)
        return parts[1] if suffix == "If" else {suffix: parts}
    assert isinstance(node, yaml.ScalarNode)
    text = str(node.value)
    if suffix == "Sub":
        for name, value in PARAMETERS.items():
            text = text.replace(f"${{{name}}}", value)
        return text.replace("${!", "${")
    return f"${{{text}}}"


_Loader.add_multi_constructor("!", _function)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    document: dict[str, Any] = yaml.load((ROOT / "examples" / "aws" / "spottune.yaml").read_text(), _Loader)
    return document


def properties(template: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = template["Resources"][name]["Properties"]
    return found


def statements(template: dict[str, Any], role: str) -> list[dict[str, Any]]:
    return [s for policy in properties(template, role)["Policies"] for s in policy["PolicyDocument"]["Statement"]]


def listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def patterns(template: dict[str, Any]) -> list[dict[str, Any]]:
    rules = [r["Properties"] for r in template["Resources"].values() if r["Type"] == "AWS::Events::Rule"]
    assert {target["Arn"] for rule in rules for target in rule["Targets"]} == {"${NoticeQueue.Arn}"}
    return [rule["EventPattern"] for rule in rules]


def test_the_rules_send_just_the_events_that_the_operator_reads(template: dict[str, Any]) -> None:
    sent = [(source, kind) for p in patterns(template) for source in p["source"] for kind in p["detail-type"]]
    assert sorted(sent) == sorted(eventbridge._READERS)


def test_what_the_rules_leave_out_says_nothing_to_the_operator(template: dict[str, Any]) -> None:
    details = {p["detail-type"][0]: p["detail"] for p in patterns(template) if "detail" in p}
    assert set(details.pop("EC2 Instance State-change Notification")["state"]) == eventbridge._ENDING_STATES
    assert details == {"AWS Health Event": {"service": ["EC2"], "eventTypeCategory": ["scheduledChange"]}}
    for change in ({"service": "RDS"}, {"eventTypeCategory": "issue"}):
        detail = {"service": "EC2", "eventTypeCategory": "scheduledChange", **change}
        event = {"source": "aws.health", "detail-type": "AWS Health Event", "time": "2026-11-28T00:00:00Z", "detail": detail}
        assert eventbridge.parse(json.dumps(event)) == eventbridge.Irrelevant("HealthNotScheduledChange")


def test_only_our_rules_may_send_and_nobody_without_tls(template: dict[str, Any]) -> None:
    policy = properties(template, "QueuePolicy")
    allow, deny = policy["PolicyDocument"]["Statement"]
    rules = {name for name, r in template["Resources"].items() if r["Type"] == "AWS::Events::Rule"}
    assert allow["Principal"] == {"Service": "events.amazonaws.com"}
    assert {re.sub(r"\$\{(\w+)\.Arn\}", r"\1", arn) for arn in allow["Condition"]["ArnEquals"]["aws:SourceArn"]} == rules
    assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert set(policy["Queues"]) == {"${NoticeQueue}", "${DeadLetters}"}


def test_a_message_that_cannot_be_read_is_in_the_dead_letter_queue_before_its_time_is_over(template: dict[str, Any]) -> None:
    queue, dead = properties(template, "NoticeQueue"), properties(template, "DeadLetters")
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == "${DeadLetters.Arn}"
    assert queue["VisibilityTimeout"] > sqs.HANDLE_SECONDS
    assert queue["MessageRetentionPeriod"] == desk.STALE_SECONDS
    assert queue["RedrivePolicy"]["maxReceiveCount"] * queue["VisibilityTimeout"] < queue["MessageRetentionPeriod"]
    assert dead["MessageRetentionPeriod"] > queue["MessageRetentionPeriod"]
    assert dead["RedriveAllowPolicy"]["sourceQueueArns"][0].endswith(f":{queue['QueueName']}")


def test_the_operator_may_read_its_queue_and_nothing_else(template: dict[str, Any]) -> None:
    (statement,) = statements(template, "OperatorRole")
    assert set(statement["Action"]) == {"sqs:ReceiveMessage", "sqs:DeleteMessage"}
    assert statement["Resource"] == "${NoticeQueue.Arn}"
    called = re.findall(r"_client\.(\w+)_message(?:_batch)?\(", (ROOT / "operator/spottune_operator/notices/sqs.py").read_text())
    assert set(called) == {"receive", "delete"}


@pytest.mark.parametrize("role", ["OperatorRole", "TrainerRole", "DrillRole"])
def test_no_role_may_everything_of_anything(template: dict[str, Any], role: str) -> None:
    for statement in statements(template, role):
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in listed(statement["Action"]))
        assert listed(statement["Resource"]) != ["*"] or statement["Action"] == "ec2:DescribeInstances"


ACTIONS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
}
OWN = job_location("s3://bucket/checkpoints", "eu-1", "team-a", "0f9b")
SLOT, DATA, PROBE = slot_key(7), data_key(1, "abcdefgh", 10, "abcdefgh", "rng.json"), probe_key("abcdefgh")
TAIL = tail_key(1, "abcdefgh")


def allowed(template: dict[str, Any], call: str, where: S3Location, key: str = "", *, once: bool = True, namespace: str = "team-a") -> bool:
    """Whether the trainer's role in a pod of `namespace` may make this call; `once`: with If-None-Match."""
    full = where.key(key)
    for statement in statements(template, "TrainerRole"):
        if ACTIONS[call] not in listed(statement["Action"]):
            continue
        condition = statement.get("Condition", {})
        if "Null" in condition and not once:
            continue
        if call == "ListObjectsV2":
            wanted, names = listed(condition["StringLikeIfExists"]["s3:prefix"]), full
        else:
            wanted, names = listed(statement["Resource"]), f"${{Bucket.Arn}}/{full}"
        if any(fnmatchcase(names, pattern.replace(NAMESPACE_TAG, namespace)) for pattern in wanted):
            return True
    return False


def test_the_trainer_may_make_each_call_of_its_store(template: dict[str, Any]) -> None:
    assert set(ACTIONS) == s3.ALLOWED_CALLS
    for key in (SLOT, DATA, PROBE, TAIL):
        assert all(allowed(template, call, OWN, key) for call in ("GetObject", "HeadObject", "PutObject")), key
    assert all(allowed(template, "ListObjectsV2", OWN, prefix) for prefix in ("", "data/", "log/", "probe/"))
    assert all(allowed(template, "DeleteObject", OWN, key) for key in (DATA, PROBE))


def test_a_trainer_overwrites_nothing_and_deletes_no_log(template: dict[str, Any]) -> None:
    assert not any(allowed(template, "PutObject", OWN, key, once=False) for key in (SLOT, DATA, PROBE, TAIL))
    assert not any(allowed(template, "DeleteObject", OWN, key) for key in (SLOT, TAIL))


@pytest.mark.parametrize(
    "other",
    [
        job_location("s3://bucket/checkpoints", "eu-1", "team-b", "0f9b"),
        job_location("s3://bucket/checkpoints", "eu-2", "team-a", "0f9b"),
        job_location("s3://bucket/checkpoints", "eu-1", "team-a-2", "0f9b"),
        S3Location("bucket", "elsewhere/eu-1/team-a/0f9b"),
    ],
)
def test_what_belongs_to_another_namespace_or_cluster_is_out_of_reach(template: dict[str, Any], other: S3Location) -> None:
    for call in ACTIONS:
        for key in (SLOT, DATA, PROBE):
            assert not allowed(template, call, other, key), (call, key)


def test_sources_are_read_and_adapters_written_in_ones_own_namespace_only(template: dict[str, Any]) -> None:
    inputs, adapters = S3Location("bucket", "inputs/team-a"), S3Location("bucket", "adapters/team-a")
    assert allowed(template, "GetObject", inputs, "model.safetensors")
    assert allowed(template, "ListObjectsV2", inputs, "model/")
    assert not allowed(template, "PutObject", inputs, "model.safetensors")
    # An export may be repeated, so it overwrites; it reads back what it wrote.
    assert allowed(template, "PutObject", adapters, "a/adapter_config.json", once=False)
    assert allowed(template, "GetObject", adapters, "a/adapter_config.json")
    for call in ("GetObject", "PutObject"):
        assert not allowed(template, call, S3Location("bucket", "adapters/team-b"), "a/adapter_config.json")


@pytest.mark.parametrize(
    ("role", "account", "tags"),
    [
        ("OperatorRole", "spottune-operator", {"eks-cluster-arn", "kubernetes-namespace", "kubernetes-service-account"}),
        ("TrainerRole", "${TrainerServiceAccount}", {"eks-cluster-arn", "kubernetes-service-account"}),
    ],
)
def test_a_role_is_for_its_service_account_of_this_cluster(template: dict[str, Any], role: str, account: str, tags: set[str]) -> None:
    (trust,) = properties(template, role)["AssumeRolePolicyDocument"]["Statement"]
    assert set(trust["Action"]) == {"sts:AssumeRole", "sts:TagSession"}
    assert set(trust["Condition"]["StringEquals"]) == {f"aws:RequestTag/{tag}" for tag in tags}
    assert trust["Condition"]["StringEquals"]["aws:RequestTag/kubernetes-service-account"] == account
    associations = [r["Properties"] for r in template["Resources"].values() if r["Type"] == "AWS::EKS::PodIdentityAssociation"]
    assert [a["ServiceAccount"] for a in associations if a["RoleArn"] == f"${{{role}.Arn}}"] == [account]


def test_the_bucket_lets_nobody_overwrite_a_slot_and_keeps_every_current_version(template: dict[str, Any]) -> None:
    tls, once = properties(template, "BucketPolicy")["PolicyDocument"]["Statement"]
    assert (tls["Effect"], tls["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert (once["Effect"], once["Principal"], once["Condition"]) == ("Deny", "*", {"Null": {"s3:if-none-match": "true"}})
    assert fnmatchcase(f"${{Bucket.Arn}}/{OWN.key(SLOT)}", once["Resource"])
    assert not fnmatchcase(f"${{Bucket.Arn}}/{OWN.key(DATA)}", once["Resource"])
    bucket = properties(template, "Bucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    rules = bucket["LifecycleConfiguration"]["Rules"]
    assert {name for rule in rules for name in rule} - {"Id", "Status"} == {
        "NoncurrentVersionExpiration",
        "ExpiredObjectDeleteMarker",
        "AbortIncompleteMultipartUpload",
    }
    assert {template["Resources"]["Bucket"][policy] for policy in ("DeletionPolicy", "UpdateReplacePolicy")} == {"Retain"}


def test_every_parameter_is_explained_and_checked(template: dict[str, Any]) -> None:
    for name, parameter in template["Parameters"].items():
        assert parameter["Description"].endswith("."), name
        assert parameter.keys() & {"AllowedPattern", "AllowedValues", "MinValue"}, name
        pattern = parameter.get("AllowedPattern")
        assert pattern is None or "Default" not in parameter or re.fullmatch(pattern, parameter["Default"]), name


def test_outputs_name_values_that_the_chart_has(template: dict[str, Any]) -> None:
    values = yaml.safe_load((ROOT / "charts/spottune/values.yaml").read_text())
    texts = [str(output.get("Description")) for output in template["Outputs"].values()]
    named = set(re.findall(r"Chart value ([\w.]+\w)", " ".join(texts)))
    named |= set(re.findall(r"--set(?:-string)? ([\w.]+)=", template["Outputs"]["HelmValues"]["Value"]))
    assert named == {"clusterName", "sqs.queueURL", "sqs.region", "sqs.account"}
    for name in named:
        value = values
        for part in name.split("."):
            value = value[part]
