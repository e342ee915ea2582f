"""The CloudFormation stack of `examples/aws`, made in moto: events go the way to the operator's parser, unreadable ones to the side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from spottune_operator.notices.eventbridge import CloudEvent, Kind, Malformed, parse

pytestmark = pytest.mark.storage
TEMPLATE = Path(__file__).resolve().parents[2] / "examples" / "aws" / "spottune.yaml"
INSTANCE = "i-0123456789abcdef0"
SCHEDULED = {
    "service": "EC2",
    "eventTypeCategory": "scheduledChange",
    "eventTypeCode": "AWS_EC2_INSTANCE_REBOOT_MAINTENANCE_SCHEDULED",
    "startTime": "Sat, 05 Dec 2026 15:10:09 GMT",
    "affectedEntities": [{"entityValue": INSTANCE}],
}


class Stack:
    """A stack that was made, and clients of its account."""

    def __init__(self, endpoint: str) -> None:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        services = ("cloudformation", "events", "sqs")
        made, self.events, self.sqs = (boto3.client(name, endpoint_url=endpoint, **keys) for name in services)  # type: ignore[call-overload]
        parameters = {"ClusterName": "eu-1", "JobNamespace": "team-a"}
        made.create_stack(
            StackName="spottune",
            TemplateBody=TEMPLATE.read_text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        (described,) = made.describe_stacks(StackName="spottune")["Stacks"]
        assert described["StackStatus"] == "CREATE_COMPLETE"
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}

    def put(self, source: str, detail_type: str, **detail: Any) -> None:
        entry = {"Source": source, "DetailType": detail_type, "Detail": json.dumps(detail), "Time": datetime.now(UTC)}
        assert self.events.put_events(Entries=[entry])["FailedEntryCount"] == 0

    def receive(self, output: str = "QueueURL", *, keep: bool = False) -> list[str]:
        url = self.outputs[output]
        messages = self.sqs.receive_message(QueueUrl=url, WaitTimeSeconds=0, MaxNumberOfMessages=10, VisibilityTimeout=0)
        found = messages.get("Messages", [])
        for message in [] if keep else found:
            self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [message["Body"] for message in found]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield Stack(f"http://{host}:{port}")
    server.stop()


@pytest.mark.parametrize(
    ("kind", "source", "detail_type", "detail"),
    [
        (Kind.SPOT_INTERRUPTION, "aws.ec2", "EC2 Spot Instance Interruption Warning", {"instance-action": "terminate"}),
        (Kind.REBALANCE, "aws.ec2", "EC2 Instance Rebalance Recommendation", {}),
        (Kind.STATE_CHANGE, "aws.ec2", "EC2 Instance State-change Notification", {"state": "shutting-down"}),
        (Kind.SCHEDULED_CHANGE, "aws.health", "AWS Health Event", SCHEDULED),
        (
            Kind.CAPACITY_RESERVATION,
            "aws.ec2",
            "EC2 Capacity Reservation Instance Interruption Warning",
            {"instance-action": "terminate"},
        ),
    ],
)
def test_an_event_comes_to_the_queue_and_the_operator_reads_it(
    stack: Stack, kind: Kind, source: str, detail_type: str, detail: dict[str, Any]
) -> None:
    stack.put(source, detail_type, **detail, **({} if source == "aws.health" else {"instance-id": INSTANCE}))
    (body,) = stack.receive()
    event = parse(body, account=stack.outputs["QueueAccount"], region=stack.outputs["QueueRegion"])
    assert isinstance(event, CloudEvent)
    assert (event.kind, event.instances) == (kind, (INSTANCE,))


def test_an_event_that_says_nothing_of_an_end_does_not_come(stack: Stack) -> None:
    stack.put("aws.ec2", "EC2 Instance State-change Notification", **{"instance-id": INSTANCE, "state": "running"})
    stack.put("aws.health", "AWS Health Event", **SCHEDULED | {"service": "RDS"})
    stack.put("team.app", "EC2 Spot Instance Interruption Warning", **{"instance-id": INSTANCE, "instance-action": "terminate"})
    assert stack.receive() == []


def test_what_the_operator_cannot_read_ends_in_the_dead_letter_queue(stack: Stack) -> None:
    stack.sqs.send_message(QueueUrl=stack.outputs["QueueURL"], MessageBody="poison")
    for _ in range(5):
        (body,) = stack.receive(keep=True)
        with pytest.raises(Malformed):
            parse(body)
    assert stack.receive(keep=True) == []
    assert stack.receive("DeadLettersURL") == ["poison"]
