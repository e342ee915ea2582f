"""Alive, ready, deaf: judged from what the lists show and the watch told."""

from __future__ import annotations

import aiohttp
import pytest

from spottune_operator.health import READY_WITHIN, RESYNC_STUCK, WATCH_DEAD, WATCH_SLOW, Health, serve
from spottune_operator.metrics import Metrics

JOB = ("job", "demo", "a")


@pytest.fixture
def health() -> Health:
    return Health(started=1000.0)


def test_before_the_first_list_it_is_alive_and_not_ready(health: Health) -> None:
    assert health.alive(1001) == ""
    assert "not listed" in health.ready(1001)


def test_ready_ends_when_the_last_complete_list_gets_old(health: Health) -> None:
    health.trying(1001)
    health.listed({}, 1001)
    health.asked(1002)
    assert health.ready(1001 + READY_WITHIN) == ""
    assert health.ready(1002 + READY_WITHIN)


def test_an_api_server_that_is_away_makes_it_unready_and_not_dead(health: Health) -> None:
    health.listed({}, 1001)
    for now in range(1001, 3000, 10):
        health.trying(now)
    assert health.ready(3000)
    assert health.alive(3000) == ""


def test_f46_a_loop_that_no_longer_tries_is_dead(health: Health) -> None:
    health.trying(1001)
    assert health.alive(1001 + RESYNC_STUCK) == ""
    assert health.alive(1002 + RESYNC_STUCK)


def test_f41_a_watch_that_owes_a_change_for_too_long_is_dead(health: Health) -> None:
    health.heard(JOB, "1")
    health.listed({JOB: "1"}, 1000)
    assert health.watch_lag(1500) == 0
    for now in range(1500, 1600, 10):
        health.trying(now)
        health.listed({JOB: str(now)}, now)
    assert health.watch_lag(1590) == 90 > WATCH_DEAD
    assert "watch" in health.alive(1590)


def test_a_watch_that_is_slow_but_tells_is_not_dead_until_it_owes_something_for_ten_minutes(health: Health) -> None:
    """After a start at ten thousand jobs the watch tells of each object in turn, for longer than a dead one is waited for."""
    owed = {("job", "demo", f"j{number}"): "1" for number in range(200)}
    for number, now in enumerate(range(1000, 1000 + int(WATCH_SLOW), 10)):
        health.trying(now)
        health.listed(owed, now)
        health.heard(("job", "demo", f"j{number}"), "1")
        assert health.alive(now + 5) == ""
    assert health.watch_lag(1000 + WATCH_SLOW) == WATCH_SLOW
    late = 1001 + WATCH_SLOW
    health.trying(late)
    assert "missed a change" in health.alive(late)


def test_a_dead_watch_is_found_while_those_of_other_kinds_are_busy(health: Health) -> None:
    for now in range(1000, 1070, 10):
        health.trying(now)
        health.listed({JOB: "1", ("pod", "demo", "p"): str(now)}, now)
        health.heard(("pod", "demo", "p"), str(now))
    assert "has told nothing" in health.alive(1071)


def test_a_watch_that_is_ahead_of_the_list_or_catches_up_is_fine(health: Health) -> None:
    health.heard(JOB, "2")
    health.listed({JOB: "1"}, 1000)
    health.listed({JOB: "2"}, 1010)
    assert health.watch_lag(1100) == 0
    health.listed({JOB: "3"}, 1100)
    health.heard(JOB, "3")
    assert health.watch_lag(1200) == 0


def test_what_is_gone_is_owed_no_more(health: Health) -> None:
    health.listed({JOB: "1"}, 1000)
    health.forgotten(JOB)
    assert health.watch_lag(2000) == 0
    health.listed({JOB: "1"}, 2000)
    health.listed({}, 2010)
    assert health.watch_lag(3000) == 0


def test_ready_ends_when_nobody_answers_about_the_lease(health: Health) -> None:
    health.asked(1001)
    health.listed({}, 1100)
    assert "Lease" in health.ready(1101)
    assert health.alive(1101) == ""
    health.asked(1101)
    assert health.ready(1101) == ""


async def test_the_server_answers_with_the_reason(health: Health) -> None:
    now = 1001.0
    health.asked(now)
    runner = await serve(health, Metrics(), host="127.0.0.1", port=0, clock=lambda: now)
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        async with session.get("/healthz") as answer:
            assert answer.status == 200
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "jobs, pods and nodes were not listed yet\n")
        health.listed({}, now)
        async with session.get("/readyz") as answer:
            assert answer.status == 200
        async with session.get("/metrics") as answer:
            assert "spottune_resync_age_seconds 0.0" in await answer.text()
    await runner.cleanup()
