from __future__ import annotations

import io

import pytest
from rich.console import Console

from spottune_cli import view


def job(**status: object) -> dict[str, object]:
    return {"metadata": {"namespace": "demo", "name": "a"}, "status": status}


def text(document: dict[str, object]) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(view.panel(document))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_job_without_status_is_pending() -> None:
    assert view.phase({"metadata": {}}) == "Pending"
    assert "step 0/?" in view.line({"metadata": {}})


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"step": 7}, "step 7/60"),
        ({"loss": 1.25}, "loss 1.2500"),
        ({"attempt": 3}, "attempt 3"),
        ({"node": "n1"}, "node n1"),
        ({"interruptions": 2}, "interruptions 2"),
    ],
)
def test_every_change_a_reader_cares_for_makes_another_line(change: dict[str, object], shown: str) -> None:
    before = {"phase": "Running", "step": 6, "totalSteps": 60}
    assert shown in view.line(job(**before | change))
    assert view.line(job(**before | change)) != view.line(job(**before))


def test_the_panel_shows_the_steps_of_the_running_attempt_as_they_grow() -> None:
    attempts = [
        {
            "epoch": 1,
            "pool": "g5.xlarge/us-east-1a/spot",
            "node": "n1",
            "stepFrom": 0,
            "stepTo": 20,
            "endedAt": "2026-01-01T00:00:00Z",
            "reason": "Interrupted",
        },
        {"epoch": 2, "pool": "g6.xlarge/us-east-1b/spot", "node": "n2", "stepFrom": 20},
    ]
    shown = text(job(phase="Running", attempt=2, step=31, totalSteps=60, attempts=attempts))
    assert "0 → 20" in shown
    assert "Interrupted" in shown
    assert "20 → 31" in shown


def test_the_bar_has_a_line_of_its_own() -> None:
    lines = text(job(phase="Running", attempt=1, step=3, totalSteps=60)).splitlines()
    assert next(line for line in lines if "━" in line).strip("━ \n") == ""
    assert any(line.startswith("attempt") for line in lines)


def test_an_attempt_that_resumed_from_nothing_began_at_step_0() -> None:
    assert "0 → 7" in text(job(phase="Running", attempt=2, attempts=[{"epoch": 1, "stepTo": 7, "endedAt": "2026-01-01T00:00:00Z"}]))


def test_a_failure_names_the_condition_and_its_message() -> None:
    conditions = [
        {"type": "Accepted", "status": "True"},
        {"type": "Complete", "status": "False", "reason": "StorageDenied", "message": "no bucket: create it"},
    ]
    assert view.failure(job(phase="Failed", conditions=conditions)) == "Complete=False StorageDenied: no bucket: create it"
