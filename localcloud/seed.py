"""What an AWS account holds before Karpenter can work: network, role, queues. Made in moto, found again when it is there already."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import boto3

from localcloud.home import Home, write_private
from localcloud.moto_server import Moto
from localcloud.pools import REGION, ZONES
from localcloud.steps import Step

CLUSTER = "spottune-local"
"""The cluster's name in tags, as EKS and Karpenter use it."""

DISCOVERY_TAG = "karpenter.sh/discovery"
NODE_ROLE = "SpotTuneLocalNode"
QUEUE = "spottune"
"""SpotTune's own interruption queue; Karpenter deletes what it reads, so it has another one."""

DEAD_LETTERS = "spottune-dlq"
KARPENTER_QUEUE = "karpenter"
ACCESS_KEY = "spottune-local"
"""Access key and secret key for everything in moto, which checks neither."""

VPC_CIDR = "10.0.0.0/16"


@dataclass(frozen=True)
class Seed:
    """What was seeded; also in the file `cloud.json` of the home."""

    endpoint: str
    region: str
    queue_url: str
    karpenter_queue_url: str
    subnets: dict[str, str]
    """Subnet by zone."""

    security_group: str


Api = Literal["ec2", "iam", "sqs"]


def client(service: Api, endpoint: str) -> Any:
    """A boto3 client for the local cloud."""
    return boto3.client(service, endpoint_url=endpoint, region_name=REGION, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=ACCESS_KEY)


def seed(home: Home, endpoint: str) -> Seed:
    """Makes what is missing and returns all of it. May be repeated at any time."""
    subnets, group = _network(client("ec2", endpoint))
    _node_role(client("iam", endpoint))
    queue_url, karpenter_queue_url = _queues(client("sqs", endpoint))
    made = Seed(endpoint, REGION, queue_url, karpenter_queue_url, subnets, group)
    write_private(home.root / "cloud.json", json.dumps(asdict(made), indent=1), mode=0o644)
    return made


def load(home: Home) -> Seed | None:
    """What the last `seed` wrote; None when the home has no cloud."""
    try:
        return Seed(**json.loads((home.root / "cloud.json").read_text()))
    except FileNotFoundError:
        return None


def _network(ec2: Any) -> tuple[dict[str, str], str]:
    tagged = [{"Name": f"tag:{DISCOVERY_TAG}", "Values": [CLUSTER]}]
    tags = [{"Key": DISCOVERY_TAG, "Value": CLUSTER}, {"Key": f"kubernetes.io/cluster/{CLUSTER}", "Value": "owned"}]

    def labelled(kind: str, name: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": [*tags, {"Key": "Name", "Value": name}]}]

    found = ec2.describe_vpcs(Filters=tagged)["Vpcs"]
    vpc = (found or [ec2.create_vpc(CidrBlock=VPC_CIDR, TagSpecifications=labelled("vpc", CLUSTER))["Vpc"]])[0]["VpcId"]
    subnets = {s["AvailabilityZone"]: s["SubnetId"] for s in ec2.describe_subnets(Filters=tagged)["Subnets"]}
    for number, zone in enumerate(ZONES):
        if zone not in subnets:
            # A large block each: moto gives an address of a terminated instance back only when the instance is collected.
            subnet = ec2.create_subnet(
                VpcId=vpc,
                AvailabilityZone=zone,
                CidrBlock=f"10.0.{64 * number}.0/18",
                TagSpecifications=labelled("subnet", f"{CLUSTER}-{zone}"),
            )
            subnets[zone] = subnet["Subnet"]["SubnetId"]
    groups = ec2.describe_security_groups(Filters=tagged)["SecurityGroups"]
    if not groups:
        groups = [
            ec2.create_security_group(
                GroupName=f"{CLUSTER}-node",
                Description="Nodes of the local cluster",
                VpcId=vpc,
                TagSpecifications=labelled("security-group", f"{CLUSTER}-node"),
            )
        ]
    return subnets, groups[0]["GroupId"]


def _node_role(iam: Any) -> None:
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
    try:
        iam.get_role(RoleName=NODE_ROLE)
    except iam.exceptions.NoSuchEntityException:
        iam.create_role(RoleName=NODE_ROLE, AssumeRolePolicyDocument=json.dumps(trust))


def _queues(sqs: Any) -> tuple[str, str]:
    # CreateQueue with the attributes that the queue has already answers its URL.
    letters = sqs.create_queue(QueueName=DEAD_LETTERS, Attributes={"MessageRetentionPeriod": "1209600"})["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=letters, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "5"})
    ours = sqs.create_queue(
        QueueName=QUEUE, Attributes={"MessageRetentionPeriod": "300", "VisibilityTimeout": "20", "RedrivePolicy": redrive}
    )
    theirs = sqs.create_queue(QueueName=KARPENTER_QUEUE, Attributes={"MessageRetentionPeriod": "300"})
    return ours["QueueUrl"], theirs["QueueUrl"]


def _up(home: Home) -> str:
    made = seed(home, Moto.of_cluster(home).endpoint)
    return f"{len(made.subnets)} subnets, queues {QUEUE} and {KARPENTER_QUEUE}"


def _down(home: Home) -> None:
    (home.root / "cloud.json").unlink(missing_ok=True)


STEP = Step("AWS account", _up, _down, lambda _home: [])
