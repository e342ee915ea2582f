"""A market that moves by itself: plays a script or a recorded trace, and takes back the spot instances that no longer fit."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcloud import interruption, market, node, seed
from localcloud.home import Home
from localcloud.market import Market
from localcloud.moto_server import SOURCE_ROOT
from localcloud.pools import Pool
from localcloud.process import Service
from localcloud.reconciler import running_instances

SERVICE = "market-play"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a script: what a pool is like from a moment on."""

    at: float
    """Seconds after the start of the script."""

    pool: Pool
    price: float | None = None
    capacity: int | None = None


def parse(document: Any, trace_pool: Pool | None = None) -> tuple[Change, ...]:
    """Reads a script or, for `trace_pool`, a trace; sorted by time.

    A script is a list of `{"at": seconds, "pool": …, "price"?: …, "capacity"?: …}`; a trace `{"metadata": {"gap_seconds": G}, "data": [n, …]}`
    with n = instances obtainable. Raises `ValueError` that names what is wrong.
    """
    if isinstance(document, dict) and "data" in document:
        if trace_pool is None:
            raise ValueError("this is an availability trace: name the pool that it is for (--pool)")
        return _parse_trace(document, trace_pool)
    if not isinstance(document, list):
        raise ValueError('a market script is a JSON list of steps like {"at": 30, "pool": "g5.xlarge/us-east-1a/spot", "capacity": 0}')
    return tuple(sorted((_parse_step(number, step) for number, step in enumerate(document)), key=lambda change: change.at))


def _parse_step(number: int, step: Any) -> Change:
    known = {"at", "pool", "price", "capacity"}
    if not isinstance(step, dict) or not {"at", "pool"} <= set(step) <= known:
        raise ValueError(f"step {number} of the market script: a step has at and pool, and may have price and capacity; this is {step!r}")
    try:
        change = Change(float(step["at"]), Pool.parse(step["pool"]), step.get("price"), step.get("capacity"))
        Market().with_pool(change.pool, price=change.price, capacity=change.capacity)
    except (ValueError, TypeError) as error:
        raise ValueError(f"step {number} of the market script: {error}") from None
    return change


def _parse_trace(document: Mapping[str, Any], pool: Pool) -> tuple[Change, ...]:
    try:
        gap = float(document["metadata"]["gap_seconds"])
        data = [int(n) for n in document["data"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'the trace lacks {{"metadata": {{"gap_seconds": …}}, "data": [n, …]}}: {error!r}') from None
    return tuple(Change(i * gap, pool, capacity=n) for i, n in enumerate(data) if i == 0 or n != data[i - 1])


def reclaimed(now: Market, running: Mapping[Pool, Sequence[str]]) -> tuple[str, ...]:
    """The spot instances that no longer fit into their pools, newest first in each. `running`: each pool's instances, oldest first. Pure."""
    out: list[str] = []
    for pool, instances in sorted(running.items()):
        limit = now.quote(pool).capacity
        if pool.capacity_type == "spot" and limit is not None:
            out.extend(reversed(instances[limit:]))
    return tuple(out)


def play(home: Home, changes: Sequence[Change], speed: float, notice_seconds: float) -> None:
    """Makes the changes at their times, `speed` times as fast as written, and interrupts what no longer fits. Returns after the last one."""
    begun = time.monotonic()
    noticed: set[str] = set()
    for change in changes:
        time.sleep(max(0.0, begun + change.at / speed - time.monotonic()))
        quote = market.set_pool(market.market_path(home), change.pool, price=change.price, capacity=change.capacity)
        log.info("%s: %.4f USD/h, capacity %s", change.pool, quote.price, "endless" if quote.capacity is None else quote.capacity)
        for instance_id in reclaimed(market.load(market.market_path(home)), _running(home, noticed)):
            try:
                interruption.interrupt(home, instance_id, notice_seconds)
            except node.NodeError as error:
                log.warning("%s has no machine to interrupt: %s", instance_id, error)
                continue
            noticed.add(instance_id)
            log.info("%s is taken back in %.0f s", instance_id, notice_seconds)


def _running(home: Home, leaving: set[str]) -> dict[Pool, list[str]]:
    cloud = seed.load(home)
    instances = [] if cloud is None else running_instances(seed.client("ec2", cloud.endpoint))
    by_pool: dict[Pool, list[str]] = {}
    for instance in sorted(instances, key=lambda i: i.launch_time):
        if instance.instance_id not in leaving:
            by_pool.setdefault(instance.pool, []).append(instance.instance_id)
    return by_pool


def register_verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `market play`."""
    parser = verbs.add_parser("play", help="play a script or a trace in the background; spot instances that no longer fit get a notice")
    parser.add_argument("file", type=Path, help='[{"at": seconds, "pool": …, "capacity"?: n, "price"?: x}, …] or a trace')
    parser.add_argument("--pool", help="the pool that a trace is for")
    parser.add_argument("--speed", type=float, default=1.0, help="times as fast as written; default %(default)g")
    parser.add_argument("--notice", type=interruption.parse_seconds, default=120.0, metavar="120s")
    parser.set_defaults(run=_play_command)


def _play_command(arguments: argparse.Namespace) -> int:
    try:
        changes = parse(json.loads(arguments.file.read_text()), Pool.parse(arguments.pool) if arguments.pool else None)
    except (OSError, ValueError) as error:
        print(f"error: {arguments.file}: {error}", file=sys.stderr)
        return 2
    home: Home = arguments.home
    command = [sys.executable, "-m", "localcloud.market_script", "--home", str(home.root), "--file", str(arguments.file.absolute())]
    command += ["--speed", str(arguments.speed), "--notice", str(arguments.notice), *(["--pool", arguments.pool] if arguments.pool else [])]
    service = Service(home, SERVICE, command, cwd=SOURCE_ROOT, stop_timeout=1)
    service.stop()
    service.start()
    print(f"{len(changes)} changes over {changes[-1].at / arguments.speed if changes else 0:.0f} s; {service.log} tells of them")
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--pool", type=Pool.parse)
    parser.add_argument("--speed", type=float, required=True)
    parser.add_argument("--notice", type=float, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    play(Home(arguments.home), parse(json.loads(arguments.file.read_text()), arguments.pool), arguments.speed, arguments.notice)


if __name__ == "__main__":
    main()
