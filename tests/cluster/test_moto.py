"""Our corrections to moto, seen from outside as Karpenter sees them: through the AWS API."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from localcloud import market, seed
from localcloud.home import Home
from localcloud.moto_server import AMI, Moto
from localcloud.pools import ZONES, Pool
from tests.fixtures.homes import ephemeral_home

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    """A seeded AWS account."""
    with ephemeral_home("moto") as home:
        moto = Moto(home)
        moto.up()
        seed.seed(home, moto.endpoint)
        ec2 = seed.client("ec2", moto.endpoint)
        template = {"ImageId": AMI, "NetworkInterfaces": [{"DeviceIndex": 0, "Groups": [account(home).security_group]}]}
        ec2.create_launch_template(LaunchTemplateName="node", LaunchTemplateData=template)
        yield moto


def account(home: Home) -> seed.Seed:
    made = seed.load(home)
    assert made is not None
    return made


def launch(moto: Moto, capacity_type: str, zones: tuple[str, ...] = ZONES, count: int = 1) -> dict[str, Any]:
    subnets = account(moto.home).subnets
    overrides = [
        {"InstanceType": "g5.xlarge", "SubnetId": subnets[zone], "AvailabilityZone": zone, "Priority": float(rank)}
        for rank, zone in enumerate(zones)
    ]
    specification = {"LaunchTemplateName": "node", "Version": "$Latest"}
    answer: dict[str, Any] = seed.client("ec2", moto.endpoint).create_fleet(
        Type="instant",
        TargetCapacitySpecification={"TotalTargetCapacity": count, "DefaultTargetCapacityType": capacity_type},
        LaunchTemplateConfigs=[{"LaunchTemplateSpecification": specification, "Overrides": overrides}],
    )
    return answer


def describe(moto: Moto, answer: dict[str, Any]) -> list[dict[str, Any]]:
    ids = [name for group in answer["Instances"] for name in group["InstanceIds"]]
    reservations = seed.client("ec2", moto.endpoint).describe_instances(InstanceIds=ids)["Reservations"]
    return [instance for reservation in reservations for instance in reservation["Instances"]]


def set_pool(moto: Moto, pool: str, **change: Any) -> None:
    market.set_pool(market.market_path(moto.home), Pool.parse(pool), **change)


@pytest.fixture(autouse=True)
def _list_prices(moto: Moto) -> None:
    market.market_path(moto.home).unlink(missing_ok=True)


def test_seeding_again_makes_nothing_new(moto: Moto) -> None:
    assert seed.seed(moto.home, moto.endpoint) == account(moto.home)


def test_only_the_types_of_the_local_cloud_exist_in_every_zone(moto: Moto) -> None:
    ec2 = seed.client("ec2", moto.endpoint)
    kinds = {kind["InstanceType"] for kind in ec2.describe_instance_types()["InstanceTypes"]}
    offered = ec2.describe_instance_type_offerings(LocationType="availability-zone")["InstanceTypeOfferings"]
    assert kinds == {"g4dn.xlarge", "g5.xlarge", "g6.xlarge", "m5.xlarge"}
    assert {(o["InstanceType"], o["Location"]) for o in offered} == {(kind, zone) for kind in kinds for zone in ZONES}


def test_a_spot_instance_reads_back_with_its_request_zone_and_security_group(moto: Moto) -> None:
    (instance,) = describe(moto, launch(moto, "spot", ("us-east-1b",)))
    assert instance["InstanceLifecycle"] == "spot"
    assert instance["SpotInstanceRequestId"].startswith("sir-")
    assert instance["Placement"]["AvailabilityZone"] == "us-east-1b"
    assert [group["GroupId"] for group in instance["SecurityGroups"]] == [account(moto.home).security_group]


def test_an_on_demand_instance_reads_back_without_a_spot_request(moto: Moto) -> None:
    (instance,) = describe(moto, launch(moto, "on-demand"))
    assert "InstanceLifecycle" not in instance
    assert "SpotInstanceRequestId" not in instance
    assert [group["GroupId"] for group in instance["SecurityGroups"]] == [account(moto.home).security_group]


def test_a_fleet_takes_the_cheapest_pool_that_has_capacity_and_names_the_ones_that_had_none(moto: Moto) -> None:
    set_pool(moto, "g5.xlarge/us-east-1b/spot", price=0.01, capacity=0)
    set_pool(moto, "g5.xlarge/us-east-1c/spot", price=0.02)
    answer = launch(moto, "spot")
    assert answer["Instances"][0]["LaunchTemplateAndOverrides"]["Overrides"]["AvailabilityZone"] == "us-east-1c"
    (error,) = answer["Errors"]
    assert error["ErrorCode"] == "InsufficientInstanceCapacity"
    assert error["LaunchTemplateAndOverrides"]["Overrides"]["AvailabilityZone"] == "us-east-1b"


def test_terminated_instances_give_their_capacity_back(moto: Moto) -> None:
    pool, zone = "g5.xlarge/us-east-1a/on-demand", ("us-east-1a",)
    (first,) = describe(moto, launch(moto, "on-demand", zone))
    seed.client("ec2", moto.endpoint).terminate_instances(InstanceIds=[first["InstanceId"]])
    held = len(_running(moto, "us-east-1a", "on-demand"))
    set_pool(moto, pool, capacity=held + 1)
    (second,) = describe(moto, launch(moto, "on-demand", zone))
    assert launch(moto, "on-demand", zone)["Instances"] == []
    seed.client("ec2", moto.endpoint).terminate_instances(InstanceIds=[second["InstanceId"]])
    assert len(launch(moto, "on-demand", zone)["Instances"]) == 1


def test_without_any_capacity_nothing_is_launched(moto: Moto) -> None:
    for zone in ZONES:
        set_pool(moto, f"g5.xlarge/{zone}/spot", capacity=0)
    answer = launch(moto, "spot", count=2)
    assert answer["Instances"] == []
    assert len(answer["Errors"]) == 3


def test_the_spot_price_history_tells_the_markets_present_price(moto: Moto) -> None:
    set_pool(moto, "g6.xlarge/us-east-1a/spot", price=0.777)
    history = seed.client("ec2", moto.endpoint).describe_spot_price_history(InstanceTypes=["g6.xlarge"])["SpotPriceHistory"]
    (entry,) = [e for e in history if e["AvailabilityZone"] == "us-east-1a"]
    assert float(entry["SpotPrice"]) == 0.777
    assert entry["ProductDescription"] == "Linux/UNIX"
    assert datetime.now(UTC) - entry["Timestamp"] < timedelta(minutes=1)


def test_a_message_read_too_often_goes_to_the_dead_letters(moto: Moto) -> None:
    sqs = seed.client("sqs", moto.endpoint)
    url = account(moto.home).queue_url
    sqs.send_message(QueueUrl=url, MessageBody="not an event")
    for _ in range(6):
        sqs.receive_message(QueueUrl=url, VisibilityTimeout=0)
    letters = sqs.receive_message(QueueUrl=sqs.get_queue_url(QueueName=seed.DEAD_LETTERS)["QueueUrl"])
    assert [message["Body"] for message in letters["Messages"]] == ["not an event"]


def _running(moto: Moto, zone: str, capacity_type: str) -> list[dict[str, Any]]:
    filters = [{"Name": "availability-zone", "Values": [zone]}, {"Name": "instance-state-name", "Values": ["running"]}]
    reservations = seed.client("ec2", moto.endpoint).describe_instances(Filters=filters)["Reservations"]
    found = [instance for reservation in reservations for instance in reservation["Instances"]]
    return [instance for instance in found if instance.get("InstanceLifecycle", "on-demand") == capacity_type]
