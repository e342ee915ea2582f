"""Pools of the local cloud: an instance type in a zone, bought as spot or on demand, and the few that exist here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

REGION = "us-east-1"
ACCOUNT = "123456789012"
"""The account of everything in the local cloud (moto's default)."""

ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")

CapacityType = Literal["spot", "on-demand"]


@dataclass(frozen=True, slots=True)
class InstanceType:
    """What the local cloud knows of an instance type, beyond what moto's copy of the EC2 tables says."""

    name: str
    on_demand_price: float
    """US dollars per hour."""

    spot_prices: tuple[float, float, float]
    """US dollars per hour, one per zone of `ZONES`, until the market says otherwise."""


INSTANCE_TYPES = (
    # One GPU each: T4 (15 GiB), L4 and A10G (22 GiB). A pod that asks for no `nvidia.com/gpu` runs on them without any.
    InstanceType("g4dn.xlarge", 0.526, (0.2104, 0.2231, 0.1987)),
    InstanceType("g6.xlarge", 0.8048, (0.3541, 0.3219, 0.3780)),
    InstanceType("g5.xlarge", 1.006, (0.4426, 0.4728, 0.4024)),
    # For what needs no GPU.
    InstanceType("m5.xlarge", 0.192, (0.0710, 0.0768, 0.0691)),
)


@dataclass(frozen=True, slots=True, order=True)
class Pool:
    """One pool of capacity, written `<instance type>/<zone>/<spot|on-demand>`."""

    instance_type: str
    zone: str
    capacity_type: CapacityType

    @classmethod
    def parse(cls, text: str) -> Pool:
        """Reads `g5.xlarge/us-east-1a/spot`; raises `ValueError` that says what is wrong with it."""
        parts = text.split("/")
        if len(parts) != 3:
            raise ValueError(f"pool {text!r}: write it as <instance type>/<zone>/<spot|on-demand>, e.g. g5.xlarge/us-east-1a/spot")
        instance_type, zone, capacity_type = parts
        known = [kind.name for kind in INSTANCE_TYPES]
        if instance_type not in known:
            raise ValueError(f"pool {text!r}: the local cloud has no instance type {instance_type!r}; it has {', '.join(known)}")
        if zone not in ZONES:
            raise ValueError(f"pool {text!r}: the local cloud has no zone {zone!r}; it has {', '.join(ZONES)}")
        if capacity_type not in get_args(CapacityType):
            raise ValueError(f"pool {text!r}: the capacity type is spot or on-demand, not {capacity_type!r}")
        return cls(instance_type, zone, "spot" if capacity_type == "spot" else "on-demand")

    def __str__(self) -> str:
        return f"{self.instance_type}/{self.zone}/{self.capacity_type}"


def list_price(pool: Pool) -> float:
    """US dollars per hour of a pool before the market moved it."""
    kind = next(kind for kind in INSTANCE_TYPES if kind.name == pool.instance_type)
    return kind.on_demand_price if pool.capacity_type == "on-demand" else kind.spot_prices[ZONES.index(pool.zone)]


def all_pools() -> tuple[Pool, ...]:
    """Every pool of the local cloud."""
    kinds: tuple[CapacityType, ...] = get_args(CapacityType)
    return tuple(Pool(kind.name, zone, capacity_type) for kind in INSTANCE_TYPES for zone in ZONES for capacity_type in kinds)
