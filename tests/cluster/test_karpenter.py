"""The real Karpenter against the local cloud: what it launches, what it does when there is nothing, and how nodes end.

Karpenter keeps away from a pool for three minutes after a notice or a lack of capacity there, so each test has pools of its own.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta

import pytest

from localcloud import interruption, node, seed
from localcloud.reconciler import Reconciler
from tests.fixtures.cloud import Cloud, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.nodes]

WARNING = "EC2 Spot Instance Interruption Warning"
STATE_CHANGE = "EC2 Instance State-change Notification"
WAIT_FOR_TERM = "trap 'echo saved; exit 10' TERM; while :; do sleep 0.1; done"


def test_a_pending_pod_gets_a_node_of_the_pool_it_asks_for(clean_cloud: Cloud) -> None:
    begun = time.monotonic()
    clean_cloud.run_pod("trainer", ["g6.xlarge"], ["us-east-1b"])
    name = clean_cloud.node_of("trainer")
    print(f"pending to Running: {time.monotonic() - begun:.1f} s")

    (found,) = [n for n in clean_cloud.get("nodes") if n["metadata"]["name"] == name]
    labels = found["metadata"]["labels"]
    assert labels["node.kubernetes.io/instance-type"] == "g6.xlarge"
    assert labels["topology.kubernetes.io/zone"] == "us-east-1b"
    assert labels["karpenter.sh/capacity-type"] == "spot"
    assert labels["karpenter.sh/registered"] == "true"
    assert found["spec"]["providerID"] == f"aws:///us-east-1b/{name}"
    (instance,) = clean_cloud.instances("g6.xlarge/us-east-1b/spot")
    assert instance["InstanceId"] == name
    assert instance["InstanceLifecycle"] == "spot"
    # What a wrong answer of EC2 would make of it: an on-demand instance, or one that has drifted from its class.
    assert instance["SpotInstanceRequestId"].startswith("sir-")
    assert [group["GroupId"] for group in instance["SecurityGroups"]] == [clean_cloud.seed.security_group]
    (claim,) = clean_cloud.claims("g6.xlarge/us-east-1b/spot")
    assert "Drifted" not in {condition["type"] for condition in claim["status"]["conditions"]}


def test_a_pool_without_capacity_is_passed_over_for_the_next(clean_cloud: Cloud) -> None:
    clean_cloud.set_pool("g5.xlarge/us-east-1a/spot", price=0.1, capacity=0)
    clean_cloud.run_pod("trainer", ["g5.xlarge"], ["us-east-1a", "us-east-1b"])
    name = clean_cloud.node_of("trainer")
    assert clean_cloud.instances("g5.xlarge/us-east-1a/spot") == []
    assert [i["InstanceId"] for i in clean_cloud.instances("g5.xlarge/us-east-1b/spot")] == [name]


def test_with_no_capacity_anywhere_the_pod_stays_pending_and_nothing_is_launched(clean_cloud: Cloud) -> None:
    pool = "g4dn.xlarge/us-east-1c/spot"
    clean_cloud.set_pool(pool, capacity=0)
    clean_cloud.run_pod("trainer", ["g4dn.xlarge"], ["us-east-1c"])
    reported = lambda: [e for e in clean_cloud.get("events") if e["reason"] == "InsufficientCapacityError"]  # noqa: E731
    eventually(reported, 30, "Karpenter to report the lack of capacity")
    eventually(lambda: not clean_cloud.claims(pool), 30, "the claim to be given up")
    assert clean_cloud.instances(pool) == []


def test_a_notice_is_on_imds_and_in_both_queues_and_the_power_goes_off_at_its_time(quiet_cloud: Cloud) -> None:
    quiet_cloud.run_pod("trainer", ["g5.xlarge"], ["us-east-1c"])
    name = quiet_cloud.node_of("trainer")
    quiet_cloud.karpenter.down()  # it would drain the node and end the instance long before its time, and empty its queue

    given = interruption.interrupt(quiet_cloud.home, name, notice_seconds=8, kind="stop", with_rebalance=True)

    shown = json.loads(_metadata(quiet_cloud, name, "spot/instance-action"))
    assert shown == {"action": "stop", "time": f"{given.action_time:%Y-%m-%dT%H:%M:%SZ}"}
    (recommendation, warning) = quiet_cloud.events(name)
    assert recommendation["detail-type"] == "EC2 Instance Rebalance Recommendation"
    assert warning["detail-type"] == WARNING
    assert warning["detail"] == {"instance-id": name, "instance-action": "stop"}
    assert datetime.fromisoformat(warning["time"]) + timedelta(seconds=120) == given.action_time
    # Counted, not read: Karpenter's last long poll may still hold one of them.
    assert quiet_cloud.message_count(quiet_cloud.seed.karpenter_queue_url) == 2
    assert node.get(quiet_cloud.home, name).state == "Running"
    eventually(lambda: not quiet_cloud.has_machine(name), 20, "the node to go off")
    assert datetime.now(UTC) >= given.action_time
    assert [m["detail"]["state"] for m in quiet_cloud.events(name)] == ["stopping", "stopped"]


def test_karpenter_drains_on_a_notice_so_the_pod_gets_its_sigterm(clean_cloud: Cloud) -> None:
    clean_cloud.run_pod("trainer", ["g5.xlarge"], ["us-east-1a"], WAIT_FOR_TERM)
    name = clean_cloud.node_of("trainer")
    with clean_cloud.watching("pod/trainer", "{.status.containerStatuses[0].state.terminated.exitCode}") as exit_codes:
        given = interruption.interrupt(clean_cloud.home, name)
        eventually(lambda: "10" in exit_codes.read_text(), 20, "the pod to answer the SIGTERM")
    eventually(lambda: not clean_cloud.has_machine(name), 50, "Karpenter to drain the node, and the machine to follow its instance")
    assert datetime.now(UTC) < given.action_time
    (warning, *changes) = clean_cloud.events(name)
    assert warning["detail-type"] == WARNING
    assert [(m["detail-type"], m["detail"]["state"]) for m in changes] == [(STATE_CHANGE, "shutting-down"), (STATE_CHANGE, "terminated")]


def test_after_a_loss_without_notice_a_pod_for_another_pool_runs_within_seconds(clean_cloud: Cloud) -> None:
    clean_cloud.run_pod("trainer-e1-0", ["g4dn.xlarge"], ["us-east-1a"])
    lost = clean_cloud.node_of("trainer-e1-0")

    interruption.power_off(clean_cloud.home, lost)

    begun = time.monotonic()
    clean_cloud.run_pod("trainer-e2-0", ["g6.xlarge"], ["us-east-1c"])
    assert clean_cloud.node_of("trainer-e2-0") != lost
    print(f"lost to Running elsewhere: {time.monotonic() - begun:.1f} s")
    eventually(lambda: not clean_cloud.has_machine(lost), 10, "the lost machine to be forgotten")
    assert clean_cloud.events(lost) == []


def test_a_killed_karpenter_makes_no_second_claim_and_the_pod_gets_its_node(clean_cloud: Cloud) -> None:
    pool = "g6.xlarge/us-east-1a/spot"
    clean_cloud.run_pod("trainer", ["g6.xlarge"], ["us-east-1a"])
    eventually(lambda: clean_cloud.claims(pool), 15, "a claim")
    process = clean_cloud.karpenter.service.running()
    assert process is not None
    process.signal(signal.SIGKILL)
    clean_cloud.karpenter.up()
    clean_cloud.node_of("trainer")
    assert len(clean_cloud.claims(pool)) == 1
    # Killed between CreateFleet and the record of it, Karpenter launches again; its garbage collection ends the orphan minutes later.
    assert len(clean_cloud.instances(pool)) <= 2


def test_a_reconciler_that_died_while_a_machine_booted_boots_it_again(clean_cloud: Cloud) -> None:
    reconciler = Reconciler(clean_cloud.home).service
    clean_cloud.run_pod("trainer", ["g4dn.xlarge"], ["us-east-1b"])
    eventually(lambda: clean_cloud.instances("g4dn.xlarge/us-east-1b/spot"), 20, "the instance")
    (instance,) = clean_cloud.instances("g4dn.xlarge/us-east-1b/spot")
    eventually(lambda: clean_cloud.has_machine(instance["InstanceId"]), 20, "the machine's first file")
    process = reconciler.running()
    assert process is not None
    process.signal(signal.SIGKILL)
    node.poweroff(clean_cloud.home, instance["InstanceId"])  # however far it had come
    Reconciler(clean_cloud.home).up()
    assert clean_cloud.node_of("trainer") == instance["InstanceId"]


def test_a_static_node_is_interrupted_at_its_time_too(clean_cloud: Cloud) -> None:
    added = node.add(clean_cloud.home, "g6.xlarge/us-east-1c/spot", name="static")
    try:
        given = interruption.interrupt(clean_cloud.home, "static", notice_seconds=3)
        eventually(lambda: node.get(clean_cloud.home, "static").state == "Off", 15, "the power to go off")
        assert datetime.now(UTC) >= given.action_time
        # Its instance is made up, so nobody but the interruption itself can report the end.
        heard: list[str] = []

        def all_heard() -> bool:
            heard.extend(m["detail-type"] for m in clean_cloud.events(added.instance_id))
            return heard == [WARNING, STATE_CHANGE, STATE_CHANGE]

        eventually(all_heard, 10, "the warning and the state changes")
        with pytest.raises(node.NodeError, match="off already"):
            interruption.interrupt(clean_cloud.home, added.name)
    finally:
        node.delete(clean_cloud.home, "static")


def test_after_moto_forgot_everything_up_seeds_again_and_karpenter_launches_again(clean_cloud: Cloud) -> None:
    before = clean_cloud.seed
    clean_cloud.moto.down()
    clean_cloud.moto.up()
    seed.seed(clean_cloud.home, clean_cloud.moto.endpoint)
    clean_cloud.karpenter.up()
    assert clean_cloud.seed.subnets != before.subnets
    clean_cloud.run_pod("trainer", ["g5.xlarge"], ["us-east-1b"])
    clean_cloud.node_of("trainer")
    (instance,) = clean_cloud.instances("g5.xlarge/us-east-1b/spot")
    assert instance["SubnetId"] == clean_cloud.seed.subnets["us-east-1b"]


def _metadata(cloud: Cloud, name: str, path: str) -> str:
    """What the instance metadata on the node says, asked from inside of it."""
    init = node.get(cloud.home, name).init
    assert init is not None
    script = (
        "import sys, urllib.request as u\n"
        "r = u.Request('http://169.254.169.254/latest/api/token', method='PUT', headers={'X-aws-ec2-metadata-token-ttl-seconds': '60'})\n"
        "t = u.urlopen(r, timeout=5).read().decode()\n"
        "r = u.Request('http://169.254.169.254/latest/meta-data/' + sys.argv[1], headers={'X-aws-ec2-metadata-token': t})\n"
        "print(u.urlopen(r, timeout=5).read().decode())\n"
    )
    command = ["nsenter", f"--net=/proc/{init.pid}/ns/net", "python3", "-c", script, path]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
