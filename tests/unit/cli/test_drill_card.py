"""The score card: what an interruption cost, from two states of the job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from spottune_cli.drill.card import Before, Card, Kind, Price, Seen, card, document, lines, waited_for
from spottune_cli.drill.price import region_of

BEFORE = Before("job", "demo", "uid", 3, "job-e3-0", "pod-uid", "node-a", "g5.xlarge/us-east-1a/spot", step=104)
LEDGER: dict[str, Any] = {
    "at": 1000.0,
    "source": "drill-notice",
    "signal": 0.0,
    "durable": 0.7,
    "gone": 0.7,
    "placed": 4.3,
    "started": 5.3,
    "loaded": 36.2,
    "firstStep": 46.5,
    "stepsRedone": 0,
}
NOT_KNOWN = Price(None, "give --price-per-hour")


def status(ledger: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    old = {"epoch": 3, "claimed": True, "stepTo": 104, "endedAt": "then", "interruption": LEDGER if ledger is None else ledger}
    new = {"epoch": 4, "claimed": True, "stepFrom": 104, "node": "node-b"}
    exact = {"type": "ResumeExact", "status": "True", "reason": "StateVerified", "message": "Exact to the bit."}
    return {"phase": "Running", "attempt": 4, "attempts": [old, new], "conditions": [exact]} | changes


def scored(kind: Kind = Kind.NOTICE, found: dict[str, Any] | None = None, seen: Seen | None = None, price: Price = NOT_KNOWN) -> Card:
    return card(kind, BEFORE, found or status(), seen or Seen("it was done", 999.0), price)


def test_an_announced_interruption_counts_from_its_first_word_to_the_first_useful_step() -> None:
    result = scored(price=Price(3.6, "--price-per-hour"))
    assert (result.steps_lost, round(result.seconds_lost, 3), result.broken) == (0, 46.5, "")
    names = ["trainer told", "commit durable", "pod gone", "new pod on a node", "container started", "model loaded", "first useful step"]
    assert [name for name, _ in result.parts] == names
    assert [seconds for _, seconds in result.parts] == pytest.approx([0, 0.7, 0, 3.6, 1.0, 30.9, 10.3])
    assert result.dollars_lost == pytest.approx(0.0465)


def test_one_that_nobody_announced_counts_from_the_kill_and_says_when_it_was_seen() -> None:
    ledger = {"at": 1024.3, "source": "none", "gone": 0.0, "placed": 2.3, "loaded": 32.9, "firstStep": 44.2, "stepsRedone": 1}
    result = scored(Kind.NO_NOTICE, status(ledger), Seen("killed", 1000.0))
    assert result.parts[0] == ("its loss was seen", 24.3)
    assert round(result.seconds_lost, 1) == 68.5
    assert (result.steps_lost, result.broken) == (1, "")


@pytest.mark.parametrize(
    ("redone", "step_from", "claimed", "lost"),
    [
        (0, 104, True, 0),
        (2, 104, True, 2),
        # The operator had not heard of the newest steps; the drill had.
        (0, 100, True, 4),
        # There was no commit at all.
        (None, None, True, 104),
        (0, 104, False, None),
    ],
)
def test_steps_lost(redone: int | None, step_from: int | None, claimed: bool, lost: int | None) -> None:
    ledger = {name: value for name, value in LEDGER.items() if name != "stepsRedone"} | ({} if redone is None else {"stepsRedone": redone})
    found = status(ledger)
    found["attempts"][1] = {"epoch": 4, "claimed": claimed} | ({} if step_from is None else {"stepFrom": step_from})
    result = scored(found=found)
    assert result.steps_lost == lost
    assert bool(result.broken) == (lost != 0)
    assert scored(Kind.NO_NOTICE, found).broken == ""


@pytest.mark.parametrize("kind", list(Kind))
def test_a_state_that_differs_breaks_every_promise_and_another_machine_breaks_none(kind: Kind) -> None:
    def exact(reason: str) -> dict[str, Any]:
        return status(conditions=[{"type": "ResumeExact", "status": "False", "reason": reason, "message": "…"}])

    assert scored(kind, exact("StateDiffers")).broken
    assert not scored(kind, exact("ComputeClassChanged")).broken


def test_a_job_that_stayed_lost_nothing_even_if_an_earlier_interruption_did() -> None:
    found = status(attempt=3, attempts=[{"epoch": 2, "interruption": {**LEDGER, "stepsRedone": 7}}, {"epoch": 3, "claimed": True}])
    result = scored(Kind.REBALANCE, found, Seen("told", 999.0, commit_seconds=5.3, stayed="the same pod"))
    assert (result.steps_lost, result.seconds_lost, result.epoch, result.broken) == (0, 0.0, 3, "")
    assert result.parts == (("commit durable", 5.3),)
    assert any("nothing moved" in line and "the same pod" in line for line in lines(result))


OLD, NEW = {"epoch": 3, "endedAt": "then", "interruption": {"at": 1.0, "gone": 0.0}}, {"epoch": 4}


@pytest.mark.parametrize(
    ("found", "what"),
    [
        ({"phase": "Running", "attempt": 3, "attempts": [{"epoch": 3}]}, "the operator to see it"),
        ({"phase": "Draining", "attempt": 3, "attempts": [{"epoch": 3}]}, "the trainer's end"),
        ({"phase": "Accounting", "attempt": 3, "attempts": [OLD]}, "the operator to begin the next attempt"),
        ({"phase": "Starting", "attempt": 4, "attempts": [OLD, NEW]}, "a node for attempt 4"),
        ({"phase": "Starting", "attempt": 4, "attempts": [OLD, {**NEW, "node": "b"}]}, "attempt 4 to load the model"),
        ({"phase": "Running", "attempt": 4, "attempts": [OLD, {**NEW, "node": "b"}]}, "the first step of attempt 4"),
        (status(), ""),
    ],
)
def test_what_is_still_waited_for(found: dict[str, Any], what: str) -> None:
    assert waited_for(BEFORE, found) == what


def test_people_and_programs_are_told_the_same() -> None:
    result = scored(Kind.PAUSE, seen=Seen("frozen for 90 s", 999.0, old_end="exit code 11: fenced"))
    shown, written = "\n".join(lines(result)), document(result)
    for text in (
        "demo/job",
        "attempt 3 → 4",
        "frozen for 90 s",
        "46.5",
        "yes (StateVerified)",
        "exit code 11",
        "unknown: give --price-per-hour",
    ):
        assert text in shown
    assert (written["stepsLost"], written["secondsLost"], written["dollarsLost"], written["kept"]) == (0, 46.5, None, True)
    broken = replace(result, kind=Kind.NOTICE, steps_lost=2)
    assert "NOT KEPT: with notice no finished step may be lost: 2" in "\n".join(lines(broken))
    assert not document(broken)["kept"]


@pytest.mark.parametrize(
    ("zone", "region"),
    [("us-east-1a", "us-east-1"), ("us-west-2-lax-1a", "us-west-2"), ("ap-southeast-2b", "ap-southeast-2"), ("rack-7", ""), ("*", "")],
)
def test_the_region_of_a_zone(zone: str, region: str) -> None:
    assert region_of(zone) == region
