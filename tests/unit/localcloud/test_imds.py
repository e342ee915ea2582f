"""The metadata service answers as EC2's does."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from localcloud import imds
from localcloud.home import Home
from localcloud.noderecord import NodeError

IDENTITY = {
    "instance_id": "i-0123456789abcdef0",
    "instance_type": "g5.xlarge",
    "zone": "us-east-1a",
    "capacity_type": "spot",
    "address": "198.18.1.1",
    "hostname": "n1",
}
NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "nodes" / "n1").mkdir(parents=True)
    return Home(tmp_path)


@pytest.fixture
def ask(home: Home, clock: list[float]) -> Iterator[Ask]:
    server = imds.server(("127.0.0.1", 0), IDENTITY, home.root / "nodes" / "n1" / imds.STATE_FILE, lambda: clock[0])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        named = {
            f"X-aws-ec2-metadata-{name.replace('_', '-')}" if name != "forwarded" else "X-Forwarded-For": v for name, v in headers.items()
        }
        request = urllib.request.Request(f"http://127.0.0.1:{server.server_address[1]}{path}", method=method, headers=named)
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    yield ask
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def get(ask: Ask) -> Callable[[str], tuple[int, str]]:
    """GET with a good token."""
    token = ask("/latest/api/token", "PUT", token_ttl_seconds="21600")[1]
    return lambda path: ask(f"/latest/{path}", token=token)


def test_without_a_token_nothing_is_told(ask: Ask) -> None:
    assert ask("/latest/meta-data/instance-id") == (401, "")
    assert ask("/latest/meta-data/instance-id", token="made-up") == (401, "")


@pytest.mark.parametrize("seconds", ["0", "21601", "soon", "-1"])
def test_a_token_needs_a_time_to_live_of_one_second_to_six_hours(ask: Ask, seconds: str) -> None:
    assert ask("/latest/api/token", "PUT", token_ttl_seconds=seconds)[0] == 400


def test_a_token_is_not_given_through_a_proxy_nor_without_a_time_to_live(ask: Ask) -> None:
    assert ask("/latest/api/token", "PUT", token_ttl_seconds="60", forwarded="10.0.0.1")[0] == 403
    assert ask("/latest/api/token", "PUT")[0] == 400


def test_a_token_ends_after_its_time(ask: Ask, clock: list[float]) -> None:
    token = ask("/latest/api/token", "PUT", token_ttl_seconds="60")[1]
    clock[0] += 59
    assert ask("/latest/meta-data/instance-id", token=token) == (200, IDENTITY["instance_id"])
    clock[0] += 1
    assert ask("/latest/meta-data/instance-id", token=token)[0] == 401


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("meta-data/instance-type", "g5.xlarge"),
        ("meta-data/instance-life-cycle", "spot"),
        ("meta-data/placement/availability-zone", "us-east-1a"),
        ("meta-data/placement/region", "us-east-1"),
        ("meta-data/autoscaling/target-lifecycle-state", "InService"),
        ("meta-data/events/maintenance/scheduled", "[]"),
        ("meta-data/placement/", "availability-zone\nregion"),
    ],
)
def test_a_quiet_node_tells_who_it_is(get: Callable[[str], tuple[int, str]], path: str, body: str) -> None:
    assert get(path) == (200, body)


@pytest.mark.parametrize("path", ["spot/instance-action", "spot/termination-time", "events/recommendations/rebalance", "no-such-thing"])
def test_what_there_is_not_is_a_404(get: Callable[[str], tuple[int, str]], path: str) -> None:
    assert get(f"meta-data/{path}")[0] == 404


def test_the_identity_document_names_instance_and_region(get: Callable[[str], tuple[int, str]]) -> None:
    document = json.loads(get("dynamic/instance-identity/document")[1])
    assert (document["instanceId"], document["region"]) == (IDENTITY["instance_id"], "us-east-1")


def test_notices_appear_at_once_add_up_and_can_be_taken_back(home: Home, get: Callable[[str], tuple[int, str]]) -> None:
    imds.set_rebalance(home, "n1", NOON)
    imds.set_instance_action(home, "n1", "terminate", NOON)
    assert json.loads(get("meta-data/events/recommendations/rebalance")[1]) == {"noticeTime": "2026-05-01T12:00:00Z"}
    assert json.loads(get("meta-data/spot/instance-action")[1]) == {"action": "terminate", "time": "2026-05-01T12:00:00Z"}
    assert get("meta-data/spot/termination-time") == (200, "2026-05-01T12:00:00Z")
    imds.clear(home, "n1")
    assert get("meta-data/spot/instance-action")[0] == 404
    assert get("meta-data/events/recommendations/rebalance")[0] == 404


def test_a_hibernation_has_no_termination_time(home: Home, get: Callable[[str], tuple[int, str]]) -> None:
    imds.set_instance_action(home, "n1", "hibernate", NOON)
    assert json.loads(get("meta-data/spot/instance-action")[1])["action"] == "hibernate"
    assert get("meta-data/spot/termination-time")[0] == 404


def test_maintenance_is_a_list_of_events_and_the_lifecycle_state_is_a_word(home: Home, get: Callable[[str], tuple[int, str]]) -> None:
    imds.set_maintenance(home, "n1", NOON)
    imds.set_target_lifecycle_state(home, "n1", "Terminated")
    (event,) = json.loads(get("meta-data/events/maintenance/scheduled")[1])
    assert (event["NotBefore"], event["Code"], event["State"]) == ("01 May 2026 12:00:00 GMT", "system-reboot", "active")
    assert get("meta-data/autoscaling/target-lifecycle-state") == (200, "Terminated")


def test_an_on_demand_instance_never_has_a_spot_action() -> None:
    state = {"instance_action": {"action": "terminate", "time": "2026-05-01T12:00:00Z"}}
    found = imds.documents({**IDENTITY, "capacity_type": "on-demand"}, state)
    assert not [path for path in found if "spot" in path]


def test_a_notice_for_an_unknown_node_names_the_known_ones(home: Home) -> None:
    with pytest.raises(NodeError, match="n1"):
        imds.set_rebalance(home, "n2", NOON)
