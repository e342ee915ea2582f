"""What moto gets wrong for Karpenter and the spot market, corrected in the launcher's process.

Each correction replaces one function and says which behaviour of EC2 it restores. They are checked against moto 5.2; `apply` raises
`AttributeError` when a newer moto has moved what they replace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moto.ec2.models.fleets import Fleet
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES, InstanceTypeBackend
from moto.ec2.models.spot_requests import SpotInstanceRequest
from moto.ec2.responses.fleets import Fleets
from moto.ec2.responses.spot_instances import SpotInstances

from localcloud import market
from localcloud.pools import INSTANCE_TYPES as OUR_TYPES
from localcloud.pools import REGION, ZONES, CapacityType, Pool

NO_CAPACITY = "InsufficientInstanceCapacity"


def apply(market_path: Path) -> None:
    """Applies every correction to moto in this process. `market_path` is the market's file, read at each launch and each price query."""
    trim_instance_types()
    take_security_groups_from_launch_template()
    allocate_by_market(market_path)
    report_errors_of_fleet()
    show_spot_request_on_instance()
    answer_market_prices(market_path)


def trim_instance_types() -> None:
    """Keeps the types and zones of the local cloud: with all 1,377 a DescribeInstanceTypes takes two seconds."""
    ours = {kind.name for kind in OUR_TYPES}
    for name in set(INSTANCE_TYPES) - ours:
        del INSTANCE_TYPES[name]
    InstanceTypeBackend.instance_types = [kind for kind in InstanceTypeBackend.instance_types if kind.name in ours]
    for kind, by_region in INSTANCE_TYPE_OFFERINGS.items():
        kept = [offering for offering in by_region.get(REGION, []) if offering["InstanceType"] in ours]
        if kind == "availability-zone":
            kept = [offering for offering in kept if offering["Location"] in ZONES]
            missing = {(t, z) for t in ours for z in ZONES} - {(o["InstanceType"], o["Location"]) for o in kept}
            kept += [{"InstanceType": t, "Location": z, "LocationType": kind} for t, z in sorted(missing)]
        by_region.clear()
        by_region[REGION] = kept


def take_security_groups_from_launch_template() -> None:
    """EC2 puts the launch template's security groups on the instance; moto drops them and Karpenter sees SecurityGroupDrift."""

    def corrected(original: Callable[..., None]) -> Callable[..., None]:
        def __init__(self: Fleet, ec2_backend: Any, *args: Any, **kwargs: Any) -> None:
            configs = kwargs["launch_template_configs"] if "launch_template_configs" in kwargs else args[4]
            for config in configs or []:
                named = config["LaunchTemplateSpecification"]
                if "LaunchTemplateId" in named:
                    template = ec2_backend.get_launch_template(template_id=named["LaunchTemplateId"])
                else:
                    template = ec2_backend.get_launch_template_by_name(name=named["LaunchTemplateName"])
                for version in template.versions:
                    groups = list(version.data.get("SecurityGroupIds", []))
                    for interface in version.data.get("NetworkInterfaces", [])[:1]:
                        groups += interface.get("Groups", [])
                    version.data["GroupSet"] = groups
            original(self, ec2_backend, *args, **kwargs)

        return __init__

    _replace(Fleet, "__init__", corrected)


def allocate_by_market(market_path: Path) -> None:
    """An instant fleet takes the cheapest override that has capacity; moto takes the first and never runs out of it."""

    def remember(capacity_type: CapacityType) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def corrected(original: Callable[..., Any]) -> Callable[..., Any]:
            def create(self: Fleet, weight_to_add: float) -> Any:
                self.capacity_type = capacity_type
                return original(self, weight_to_add)

            return create

        return corrected

    def get_launch_spec_counts(self: Fleet, weight_to_add: float) -> tuple[dict[Any, int], float]:
        specs = list(self.launch_specs)
        offers = [
            market.Offer(
                Pool(spec.instance_type, _zone(self, spec), self.capacity_type), float((spec.overrides or {}).get("Priority") or 0.0)
            )
            for spec in specs
        ]
        allocation = market.allocate(market.load(market_path), offers, _running(self.ec2_backend), int(weight_to_add))
        self.errors = [_no_capacity(specs[index], offers[index].pool) for index in allocation.short]
        chosen = Counter(specs[index] for index in allocation.launched)
        return dict(chosen), float(chosen.total())

    _replace(Fleet, "create_spot_requests", remember("spot"))
    _replace(Fleet, "create_on_demand_requests", remember("on-demand"))
    _replace(Fleet, "get_launch_spec_counts", lambda _original: get_launch_spec_counts)


def report_errors_of_fleet() -> None:
    """CreateFleet answers one error per override that had no capacity; moto answers none."""

    def corrected(original: Callable[..., Any]) -> Callable[..., Any]:
        def create_fleet(self: Fleets) -> Any:
            answer = original(self)
            fleet = self.ec2_backend.get_fleet(answer.result["FleetId"])
            answer.result["Errors"] = getattr(fleet, "errors", [])
            return answer

        return create_fleet

    _replace(Fleets, "create_fleet", corrected)


def show_spot_request_on_instance() -> None:
    """DescribeInstances names the spot request; without it Karpenter reads a spot instance back as on-demand."""

    def corrected(original: Callable[..., Any]) -> Callable[..., Any]:
        def launch_instance(self: SpotInstanceRequest) -> Any:
            instance = original(self)
            instance.spot_instance_request_id = self.id
            return instance

        return launch_instance

    _replace(SpotInstanceRequest, "launch_instance", corrected)


def answer_market_prices(market_path: Path) -> None:
    """DescribeSpotPriceHistory answers the market's present prices; moto's are constant and from 2006."""

    def corrected(original: Callable[..., Any]) -> Callable[..., Any]:
        def describe_spot_price_history(self: SpotInstances) -> Any:
            answer = original(self)
            current = market.load(market_path)
            now = datetime.now(UTC)
            for entry in answer.result["SpotPriceHistory"]:
                quote = current.quote(Pool(entry["InstanceType"], entry["AvailabilityZone"], "spot"))
                entry |= {"SpotPrice": f"{quote.price:.6f}", "Timestamp": now, "ProductDescription": "Linux/UNIX"}
            return answer

        return describe_spot_price_history

    _replace(SpotInstances, "describe_spot_price_history", corrected)


def _replace(owner: type, name: str, corrected: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    setattr(owner, name, corrected(getattr(owner, name)))


def _zone(fleet: Fleet, spec: Any) -> str:
    zone = (spec.overrides or {}).get("AvailabilityZone") or fleet.ec2_backend.get_subnet(spec.subnet_id).availability_zone
    return str(zone)


def _running(backend: Any) -> Counter[Pool]:
    return Counter(
        Pool(instance.instance_type, instance.placement.zone, "spot" if instance.lifecycle == "spot" else "on-demand")
        for reservation in list(backend.reservations.values())
        for instance in reservation.instances
        if instance.state in ("pending", "running")
    )


def _no_capacity(spec: Any, pool: Pool) -> dict[str, Any]:
    return {
        "LaunchTemplateAndOverrides": {"LaunchTemplateSpecification": spec.launch_template_spec, "Overrides": spec.overrides},
        "Lifecycle": pool.capacity_type,
        "ErrorCode": NO_CAPACITY,
        "ErrorMessage": f"We currently do not have sufficient {pool.instance_type} capacity in the Availability Zone you requested ({pool.zone}).",
    }
