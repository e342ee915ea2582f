"""What happens to an instance against its owner's will: interruptions with a notice, recommendations, and the plain loss of power.

A notice is shown on the node's IMDS, sent to both queues, and carried out at its time by a process of its own: whoever called may be gone by then.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from botocore.exceptions import BotoCoreError, ClientError

from localcloud import ec2_events, imds, node, seed
from localcloud.ec2_events import Action
from localcloud.home import Home
from localcloud.moto_server import SOURCE_ROOT
from localcloud.process import Service, ServiceError

_LOOK_AGAIN_SECONDS = 0.25


Way = Literal["imds", "queues"]
"""How a notice comes."""


@dataclass(frozen=True)
class Interruption:
    """A notice that was given."""

    node: str
    instance_id: str
    action: Action
    action_time: datetime


def interrupt(
    home: Home,
    name: str,
    notice_seconds: float = ec2_events.NOTICE.total_seconds(),
    kind: Action = "terminate",
    with_rebalance: bool = False,
    via: Collection[Way] = get_args(Way),
) -> Interruption:
    """Gives notice that the node `name` goes, and sees to it that it does; returns at once.

    IMDS shows `spot/instance-action`, both queues get the warning (dated back when the notice is shorter than two minutes), and at the
    action time the power goes off. `with_rebalance` sends a rebalance recommendation first, as AWS does when it foresees the end.
    Whatever is not in `via` is lost on its way.

    Raises:
        ValueError: a notice below 0 or above 120 s: AWS never gives more.
        NodeError: no such node, or it is off.
        ServiceError: the queues can't be reached.
    """
    if not 0 <= notice_seconds <= ec2_events.NOTICE.total_seconds():
        raise ValueError(f"notice of {notice_seconds:g} s: AWS gives at most 120 s; use a rebalance recommendation for an earlier hint")
    target = _powered(home, name)
    now = datetime.now(UTC)
    # IMDS and the event name whole seconds: the power goes off at the second that was named.
    action_time = now.replace(microsecond=0) + timedelta(seconds=round(notice_seconds))
    given = Interruption(name, target.instance_id, kind, action_time)
    if with_rebalance:
        rebalance(home, name)
    if "imds" in via:
        imds.set_instance_action(home, name, kind, action_time)
    _carrier(home, given).start()
    if "queues" in via:
        warn(home, given, _zone(target))
    return given


def warn(home: Home, given: Interruption, zone: str) -> None:
    """Sends the warning of a notice to both queues: late, or once more. Raises `ServiceError`: the queues can't be reached."""
    _send(home, ec2_events.interruption_warning(_id(), given.instance_id, zone, given.action, given.action_time, datetime.now(UTC)))


def rebalance(home: Home, name: str) -> datetime:
    """Recommends to leave the node `name`: IMDS and both queues. Returns the notice time. Raises as `interrupt` does."""
    target = _powered(home, name)
    now = datetime.now(UTC).replace(microsecond=0)
    imds.set_rebalance(home, name, now)
    _send(home, ec2_events.rebalance_recommendation(_id(), target.instance_id, _zone(target), now))
    return now


def power_off(home: Home, name: str) -> None:
    """The power of the node `name` goes off, with no notice and no event afterwards; its instance is terminated, too."""
    target = node.get(home, name)
    _silent(home, target.instance_id).touch()
    node.poweroff(home, name)
    _end_instance(home, target.instance_id, "terminate")


def is_silent(home: Home, instance_id: str) -> bool:
    """Whether this instance went without anybody being told."""
    return _silent(home, instance_id).exists()


def announce_end(home: Home, instance_id: str, action: Action = "terminate") -> None:
    """Sends the state changes of an instance that has ended."""
    now = datetime.now(UTC)
    states: tuple[ec2_events.State, ...] = ("shutting-down", "terminated") if action == "terminate" else ("stopping", "stopped")
    for state in states:
        _send(home, ec2_events.state_change(_id(), instance_id, state, now))


def carry_out(home: Home, given: Interruption) -> str:
    """Waits for the action time and takes the power away; ends early when the node has gone before. Returns what happened."""
    while True:
        left = given.action_time.timestamp() - time.time()
        if not _still_there(home, given):
            return f"{given.node} ({given.instance_id}) was gone {max(left, 0):.0f} s before its time"
        if left <= 0:
            break
        time.sleep(min(left, _LOOK_AGAIN_SECONDS))
    node.poweroff(home, given.node)
    if not _end_instance(home, given.instance_id, given.action):
        # A static node: no instance whose end the reconciler could see.
        announce_end(home, given.instance_id, given.action)
    return f"{given.node} ({given.instance_id}) lost its power at {given.action_time:%H:%M:%S}"


def _powered(home: Home, name: str) -> node.Node:
    target = node.get(home, name)
    if target.state == "Off":
        raise node.NodeError(f"node {name} is off already: there is nothing to interrupt")
    return target


def _still_there(home: Home, given: Interruption) -> bool:
    return any(n.name == given.node and n.instance_id == given.instance_id and n.state != "Off" for n in node.list_nodes(home))


def _end_instance(home: Home, instance_id: str, action: Action) -> bool:
    """Ends the instance in EC2; False if EC2 has no such instance."""
    cloud = seed.load(home)
    if cloud is None:
        return False
    ec2 = seed.client("ec2", cloud.endpoint)
    try:
        if action == "terminate":
            ec2.terminate_instances(InstanceIds=[instance_id])
        else:
            ec2.stop_instances(InstanceIds=[instance_id])
    except ClientError as error:
        if error.response["Error"]["Code"].startswith("InvalidInstanceID"):
            return False
        raise
    except BotoCoreError as error:
        raise ServiceError(_unreachable(cloud.endpoint, error)) from error
    return True


def _send(home: Home, event: dict[str, Any]) -> None:
    cloud = seed.load(home)
    if cloud is None:
        return  # a home of static nodes, without an AWS around them: IMDS is all there is
    sqs = seed.client("sqs", cloud.endpoint)
    try:
        for queue in (cloud.queue_url, cloud.karpenter_queue_url):
            sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(event))
    except (BotoCoreError, ClientError) as error:
        raise ServiceError(_unreachable(cloud.endpoint, error)) from error


def _unreachable(endpoint: str, error: Exception) -> str:
    return f"the local cloud does not answer at {endpoint} ({error}); bring it up again: .venv/bin/python -m localcloud up"


def _carrier(home: Home, given: Interruption) -> Service:
    command = [sys.executable, "-m", "localcloud.interruption", "--home", str(home.root), "--node", given.node]
    command += ["--instance", given.instance_id, "--action", given.action, "--at", given.action_time.isoformat()]
    return Service(home, f"interruption.{given.node}", command, cwd=SOURCE_ROOT, stop_timeout=1)


def _silent(home: Home, instance_id: str) -> Path:
    folder = home.data("market") / "silent"
    folder.mkdir(exist_ok=True)
    return folder / instance_id


def _zone(target: node.Node) -> str:
    return target.pool.split("/")[1]


def _id() -> str:
    return str(uuid.uuid4())


def parse_seconds(text: str) -> float:
    """Seconds from `90`, `120s` or `2m`; raises `ArgumentTypeError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m)?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: write 90, 120s or 2m")
    return float(found[1]) * (60 if found[2] == "m" else 1)


def register_node_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `node interrupt`, `node rebalance` and `node poweroff`."""
    parser = verbs.add_parser("interrupt", help="give a spot interruption notice; the power goes off when it has run out")
    parser.add_argument("name")
    parser.add_argument("--notice", type=parse_seconds, default=120.0, metavar="120s", help="at most 120s; default %(default)gs")
    parser.add_argument("--action", choices=get_args(Action), default="terminate")
    parser.add_argument("--with-rebalance", action="store_true", help="send a rebalance recommendation first")
    parser.set_defaults(run=_guarded(_interrupt_command))
    parser = verbs.add_parser("rebalance", help="send a rebalance recommendation")
    parser.add_argument("name")
    parser.set_defaults(run=_guarded(_rebalance_command))
    parser = verbs.add_parser("poweroff", help="take the power and the instance away at once, without a word to anybody")
    parser.add_argument("name")
    parser.set_defaults(run=_guarded(_poweroff_command))


def _guarded(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        try:
            return command(arguments)
        except (node.NodeError, ServiceError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    return run


def _interrupt_command(arguments: argparse.Namespace) -> int:
    given = interrupt(arguments.home, arguments.name, arguments.notice, arguments.action, arguments.with_rebalance)
    print(f"{given.node} ({given.instance_id}): notice given, {given.action} at {given.action_time:%H:%M:%S}Z")
    return 0


def _rebalance_command(arguments: argparse.Namespace) -> int:
    print(f"{arguments.name}: rebalance recommended at {rebalance(arguments.home, arguments.name):%H:%M:%S}Z")
    return 0


def _poweroff_command(arguments: argparse.Namespace) -> int:
    power_off(arguments.home, arguments.name)
    print(f"{arguments.name}: power off, nobody told")
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Carries one interruption out at its time.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--instance", required=True)
    parser.add_argument("--action", choices=get_args(Action), required=True)
    parser.add_argument("--at", type=datetime.fromisoformat, required=True)
    arguments = parser.parse_args()
    with suppress(KeyboardInterrupt):
        given = Interruption(arguments.node, arguments.instance, arguments.action, arguments.at)
        print(carry_out(Home(arguments.home), given), flush=True)


if __name__ == "__main__":
    main()
