"""What the machine of a job costs per hour, as well as that can be known from here."""

from __future__ import annotations

import re

from spottune_cli.drill.card import Price

UNKNOWN = Price(None, "give --price-per-hour")
_SECONDS = 3


def region_of(zone: str) -> str:
    """`us-east-1` of `us-east-1a`, `us-west-2` of the local zone `us-west-2-lax-1a`; empty for what is no zone of AWS."""
    found = re.match(r"[a-z]{2}(?:-[a-z]+)+-\d+(?=[a-z-])", zone)
    return found[0] if found else ""


def of_machine(given: float | None, pool: str) -> Price:
    """The price that was given, else the newest spot price of the pool's type and zone if your AWS credentials tell it."""
    if given is not None:
        return Price(given, "--price-per-hour")
    kind, zone, capacity = [*pool.split("/"), "", "", ""][:3]
    region = region_of(zone)
    return _spot_price(kind, zone, region) if capacity == "spot" and kind and region else UNKNOWN


def _spot_price(kind: str, zone: str, region: str) -> Price:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    settings = Config(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"total_max_attempts": 1})
    try:
        session = boto3.session.Session()
        if session.get_credentials() is None:
            return UNKNOWN
        ec2 = session.client("ec2", region_name=region, config=settings)
        found = ec2.describe_spot_price_history(
            InstanceTypes=[kind], AvailabilityZone=zone, ProductDescriptions=["Linux/UNIX"], MaxResults=1
        )["SpotPriceHistory"]
        return Price(float(found[0]["SpotPrice"]), f"spot price of {kind} in {zone}") if found else UNKNOWN
    except (BotoCoreError, ClientError):
        return UNKNOWN
