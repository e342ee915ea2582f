"""What the reconciler decides: which instances boot, which machines go, which Node objects are orphans."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from localcloud.node_lifecycle import orphans
from localcloud.pools import Pool
from localcloud.reconciler import Difference, Instance, Machine, difference

POOL = Pool.parse("g5.xlarge/us-east-1b/spot")


def instance(name: str, *tags: tuple[str, str]) -> Instance:
    return Instance(name, POOL, datetime(2026, 1, 1, tzinfo=UTC), tags)


def node(name: str, *, ready: str = "Unknown", leaving: bool = False, provider_id: str | None = None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if leaving else {})
    spec = {"providerID": f"aws:///us-east-1b/{name}" if provider_id is None else provider_id}
    return {"metadata": metadata, "spec": spec, "status": {"conditions": [{"type": "Ready", "status": ready}]}}


def test_an_instance_without_a_machine_boots_and_a_machine_without_an_instance_goes() -> None:
    found = difference([instance("i-1"), instance("i-2")], [Machine("i-2", "i-2"), Machine("i-3", "i-3")])
    assert found == Difference(boot=(instance("i-1"),), remove=(Machine("i-3", "i-3"),))


def test_when_both_agree_nothing_happens() -> None:
    assert difference([instance("i-1")], [Machine("i-1", "i-1")]) == Difference((), ())


def test_an_instance_is_named_as_the_cloud_provider_names_it() -> None:
    assert instance("i-1").provider_id == "aws:///us-east-1b/i-1"


def test_a_node_bears_its_capacity_type_and_node_pool_and_no_other_tag() -> None:
    labels = instance("i-1", ("karpenter.sh/nodepool", "spottune-spot"), ("Name", "x")).labels
    assert labels == {"karpenter.sh/capacity-type": "spot", "karpenter.sh/nodepool": "spottune-spot"}


def test_a_dead_node_whose_instance_is_gone_is_an_orphan() -> None:
    assert orphans([node("i-1"), node("i-2", ready="False")], existing=set(), static=set()) == ["i-1", "i-2"]


def test_a_node_stays_while_it_is_ready_or_its_instance_exists_or_it_is_leaving_or_static() -> None:
    nodes = [node("i-1", ready="True"), node("i-2"), node("i-3", leaving=True), node("fixed"), node("i-4", provider_id="")]
    assert orphans(nodes, existing={"i-2"}, static={"fixed"}) == []
