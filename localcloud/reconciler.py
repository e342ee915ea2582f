"""Turns instances into machines: every running instance of moto becomes a node with a real kubelet, every other one loses its power.

It is also the part of EC2 that reports the end of an instance to EventBridge, and the part of EKS's cloud controller that removes Node
objects whose instance is gone.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from localcloud import interruption, node, node_lifecycle, seed
from localcloud.home import Home
from localcloud.moto_server import SOURCE_ROOT
from localcloud.pools import CapacityType, Pool
from localcloud.process import Service, ServiceError
from localcloud.steps import Row, Step

UNREGISTERED = "karpenter.sh/unregistered:NoExecute"
"""Keeps pods away until Karpenter has put its own labels and taints on the node; Karpenter takes it off."""

_INTERVAL_SECONDS = 0.3
_PARALLEL = 3
_COLLECTION = "node objects"
"""The one piece of work that belongs to no instance."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Instance:
    """A running instance as EC2 describes it."""

    instance_id: str
    pool: Pool
    launch_time: datetime
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def provider_id(self) -> str:
        """How the Node object names the instance."""
        return f"aws:///{self.pool.zone}/{self.instance_id}"

    @property
    def labels(self) -> dict[str, str]:
        """Labels the kubelet registers with, beside type and zone; Karpenter adds its own when it registers the node."""
        labels = {"karpenter.sh/capacity-type": self.pool.capacity_type}
        return labels | {key: value for key, value in self.tags if key == "karpenter.sh/nodepool"}


@dataclass(frozen=True, slots=True)
class Machine:
    """A node that stands for an instance."""

    name: str
    instance_id: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What has to happen so that machines and instances agree."""

    boot: tuple[Instance, ...]
    remove: tuple[Machine, ...]


def difference(instances: Iterable[Instance], machines: Iterable[Machine]) -> Difference:
    """Pure: which instances have no machine yet, which machines have no running instance any more."""
    running = {instance.instance_id: instance for instance in instances}
    booted = {machine.instance_id: machine for machine in machines}
    return Difference(
        boot=tuple(instance for key, instance in running.items() if key not in booted),
        remove=tuple(machine for key, machine in booted.items() if key not in running),
    )


@dataclass(frozen=True)
class Reconciler:
    """The reconciling process of one home."""

    home: Home

    @property
    def service(self) -> Service:
        command = [sys.executable, "-m", "localcloud.reconciler", "--home", str(self.home.root)]
        return Service(self.home, "reconciler", command, cwd=SOURCE_ROOT, stop_timeout=5)

    def up(self) -> None:
        """Starts it; needs the seed."""
        self.service.start()

    def down(self) -> None:
        """Stops it; nodes and instances stay."""
        self.service.stop()


class Loop:
    """Looks, compares, acts; whatever fails is tried again at the next look."""

    def __init__(self, home: Home, cloud: seed.Seed) -> None:
        self._home = home
        self._ec2 = seed.client("ec2", cloud.endpoint)
        self._workers = ThreadPoolExecutor(_PARALLEL)
        self._busy: dict[str, Future[None]] = {}
        self._collected_at = time.monotonic()
        self._first = True

    def run(self) -> None:
        """Never returns."""
        while True:
            try:
                self.look()
            except (BotoCoreError, ClientError) as error:
                # No answer says nothing about the instances: their machines stay as they are.
                log.warning("EC2 does not answer: %s", error)
                time.sleep(1)
            time.sleep(_INTERVAL_SECONDS)

    def look(self) -> None:
        """One comparison; the work itself goes on in the background, one thing at a time per instance."""
        self._busy = {key: work for key, work in self._busy.items() if not work.done()}
        instances = running_instances(self._ec2)
        found = difference(instances, self._machines())
        self._first = False
        for instance in found.boot:
            self._start(instance.instance_id, self._boot, instance)
        for machine in found.remove:
            self._start(machine.instance_id, self._remove, machine)
        if time.monotonic() - self._collected_at >= node_lifecycle.INTERVAL_SECONDS:
            self._collected_at = time.monotonic()
            self._start(_COLLECTION, self._collect)

    def _start(self, key: str, work: Any, *arguments: Any) -> None:
        if key not in self._busy:
            self._busy[key] = self._workers.submit(_logged, work, *arguments)

    def _machines(self) -> Sequence[Machine]:
        # Static nodes have no instance in EC2. At the first look a machine that is off may be one that our predecessor died while booting.
        known = [n for n in node.list_nodes(self._home) if not n.static]
        return [Machine(n.name, n.instance_id) for n in known if not (self._first and n.state == "Off")]

    def _boot(self, instance: Instance) -> None:
        begun = time.monotonic()
        try:
            node.add(
                self._home,
                pool=str(instance.pool),
                name=instance.instance_id,
                instance_id=instance.instance_id,
                provider_id=instance.provider_id,
                labels=instance.labels,
                taints=(UNREGISTERED,),
            )
        except (node.NodeError, ServiceError, OSError):
            # What is left of it would be taken for a machine that has booted.
            node.delete(self._home, instance.instance_id)
            raise
        log.info("%s (%s) booted in %.1f s", instance.instance_id, instance.pool, time.monotonic() - begun)

    def _collect(self) -> None:
        static = {n.name for n in node.list_nodes(self._home) if n.static}
        for name in node_lifecycle.collect(self._home, lambda: existing_ids(self._ec2), static):
            log.info("Node %s deleted: its instance no longer exists", name)

    def _remove(self, machine: Machine) -> None:
        node.poweroff(self._home, machine.name)
        if not interruption.is_silent(self._home, machine.instance_id):
            stopped = machine.instance_id in {described["InstanceId"] for described in _describe(self._ec2, ("stopping", "stopped"))}
            interruption.announce_end(self._home, machine.instance_id, "stop" if stopped else "terminate")
        node.delete(self._home, machine.name)
        log.info("%s is gone", machine.name)


def running_instances(ec2: Any) -> list[Instance]:
    """Every pending or running instance."""
    return [_instance(described) for described in _describe(ec2, ("pending", "running"))]


def existing_ids(ec2: Any) -> set[str]:
    """The ids of all instances that are not terminated."""
    return {described["InstanceId"] for described in _describe(ec2, ("pending", "running", "stopping", "stopped", "shutting-down"))}


def _describe(ec2: Any, states: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    for page in ec2.get_paginator("describe_instances").paginate(Filters=[{"Name": "instance-state-name", "Values": list(states)}]):
        for reservation in page["Reservations"]:
            yield from reservation["Instances"]


def _instance(described: Mapping[str, Any]) -> Instance:
    capacity_type: CapacityType = "spot" if described.get("InstanceLifecycle") == "spot" else "on-demand"
    pool = Pool(described["InstanceType"], described["Placement"]["AvailabilityZone"], capacity_type)
    tags = tuple((tag["Key"], tag["Value"]) for tag in described.get("Tags", []))
    return Instance(described["InstanceId"], pool, described["LaunchTime"], tags)


def _logged(work: Any, *arguments: Any) -> None:
    try:
        work(*arguments)
    except (node.NodeError, ServiceError, BotoCoreError, ClientError, OSError):
        log.exception("%s failed, trying again", getattr(work, "__name__", work))


def _up(home: Home) -> str:
    Reconciler(home).up()
    return "instances become nodes"


def _status(home: Home) -> list[Row]:
    process = Reconciler(home).service.running()
    return [Row("node boot (reconciler)", "running" if process else "stopped", f"pid {process.pid}" if process else "")]


STEP = Step("node boot", _up, lambda home: Reconciler(home).down(), _status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    home = Home(parser.parse_args().home)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    cloud = seed.load(home)
    if cloud is None:
        sys.exit(f"{home.root} has no cloud to reconcile with: .venv/bin/python -m localcloud up")
    Loop(home, cloud).run()


if __name__ == "__main__":
    main()
