from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import localcloud.imds
from spottune_agent.imds import RENEW_BEFORE_SECONDS, Imds, ImdsError
from spottune_agent.notice import LIFECYCLE, MAINTENANCE, REBALANCE, SPOT_ACTION, interruptions
from tests.fixtures.metadata import Metadata, serving

NOTICE = b'{"action":"terminate","time":"2022-07-11T17:11:44Z"}'


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with serving(Metadata()) as served:
        yield served


def test_nothing_announced_is_no_reading_and_no_problem(metadata: Metadata) -> None:
    look = Imds(metadata.url).look()
    assert (look.readings, look.problems) == ((), {})


def test_every_document_is_read_with_one_token(metadata: Metadata) -> None:
    metadata.documents |= {SPOT_ACTION: NOTICE, REBALANCE: b"{}", MAINTENANCE: b"[]", LIFECYCLE: b"InService"}
    imds = Imds(metadata.url)
    assert {reading.path for reading in imds.look().readings} == {SPOT_ACTION, REBALANCE, MAINTENANCE, LIFECYCLE}
    assert imds.instance_id() == "i-0123456789abcdef0"
    assert metadata.requests.count("PUT api/token") == 1


def test_the_token_is_renewed_before_it_expires(metadata: Metadata) -> None:
    metadata.token_seconds, clock = 600, Clock()
    imds = Imds(metadata.url, monotonic=clock)
    imds.look()
    clock.now += 600 - RENEW_BEFORE_SECONDS - 1
    imds.look()
    assert metadata.requests.count("PUT api/token") == 1
    clock.now += 2
    imds.look()
    assert metadata.requests.count("PUT api/token") == 2


def test_a_token_that_the_service_forgot_is_replaced_within_the_same_look(metadata: Metadata) -> None:
    metadata.documents[SPOT_ACTION] = NOTICE
    imds = Imds(metadata.url)
    imds.look()
    metadata.forget_tokens()
    look = imds.look()
    assert [reading.body for reading in look.readings] == [NOTICE]
    assert look.problems == {}


def test_a_document_is_never_asked_for_without_a_token(metadata: Metadata) -> None:
    metadata.broken["api/token"] = 403
    look = Imds(metadata.url).look()
    assert set(look.problems) == {SPOT_ACTION, REBALANCE, MAINTENANCE, LIFECYCLE}
    assert all(request == "PUT api/token" for request in metadata.requests)


@pytest.mark.parametrize("status", [400, 403, 429, 500, 503])
def test_one_failing_document_does_not_hide_the_spot_notice(metadata: Metadata, status: int) -> None:
    metadata.documents[SPOT_ACTION] = NOTICE
    metadata.broken[f"meta-data/{REBALANCE}"] = status
    look = Imds(metadata.url).look()
    assert [reading.path for reading in look.readings] == [SPOT_ACTION]
    assert f"HTTP {status}" in look.problems[REBALANCE]


def test_a_service_that_trickles_is_cut_off_after_the_total_time(metadata: Metadata) -> None:
    metadata.documents |= {SPOT_ACTION: NOTICE, REBALANCE: b"x" * 100}
    metadata.slow[REBALANCE] = 0.05
    started = time.monotonic()
    look = Imds(metadata.url, timeout=0.3).look()
    assert time.monotonic() - started < 2
    assert REBALANCE in look.problems
    assert [reading.path for reading in look.readings] == [SPOT_ACTION]


def test_a_document_of_unreasonable_size_is_a_problem(metadata: Metadata) -> None:
    metadata.documents[REBALANCE] = b"x" * (1 << 17)
    assert REBALANCE in Imds(metadata.url).look().problems


def test_a_service_that_is_not_there_is_a_problem_and_works_again_when_it_is(metadata: Metadata) -> None:
    metadata.documents[SPOT_ACTION] = NOTICE
    imds = Imds(metadata.url)
    metadata.broken |= {"api/token": 503}
    assert len(imds.look().problems) == 4
    metadata.broken.clear()
    assert len(imds.look().readings) == 1


def test_nobody_listening_is_a_problem_not_an_exception() -> None:
    assert len(Imds("http://127.0.0.1:9", timeout=0.5).look().problems) == 4


@pytest.mark.parametrize("token", [b"", b"x" * 5000, b"a\nb", "ключ".encode()])
def test_an_unusable_token_is_refused(metadata: Metadata, token: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata.fixed_token = token
    with pytest.raises(ImdsError, match="api/token"):
        Imds(metadata.url).get("meta-data/instance-id")


def test_what_is_no_instance_id_is_refused(metadata: Metadata) -> None:
    metadata.documents["instance-id"] = b"<html>"
    with pytest.raises(ImdsError, match="instance-id"):
        Imds(metadata.url).instance_id()


def test_the_local_clouds_metadata_service_is_understood(tmp_path: Path) -> None:
    identity = {"instance_id": "i-0f00", "instance_type": "g5.xlarge", "zone": "us-east-1a", "capacity_type": "spot"}
    state = {
        "instance_action": {"action": "terminate", "time": "2022-07-11T17:11:44Z"},
        "rebalance": {"noticeTime": "2022-07-11T17:00:00Z"},
        "maintenance": [{"NotBefore": "21 Jan 2019 09:00:43 GMT", "Code": "system-reboot", "EventId": "e", "State": "active"}],
        "target_lifecycle_state": "Terminated",
    }
    (tmp_path / "imds.json").write_text(json.dumps(state))
    server = localcloud.imds.server(("127.0.0.1", 0), {**identity, "address": "198.18.1.1", "hostname": "n"}, tmp_path / "imds.json")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        imds = Imds(f"http://127.0.0.1:{server.server_address[1]}")
        look, instance = imds.look(), imds.instance_id()
    finally:
        server.shutdown()
        server.server_close()
    assert (instance, look.problems) == ("i-0f00", {})
    found = interruptions(instance, look.readings, 1657559400.0)
    assert {item.source for item in found} == {"imds-spot", "rebalance", "imds-maintenance", "imds-asg"}
