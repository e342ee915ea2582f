"""The frame of all benchmarks: what is printed, and in which order things are measured."""

from __future__ import annotations

import json

import pytest

from benchmarks.report import Figure, interval, median_ratio, paired, run, table


@pytest.mark.parametrize(
    ("figure", "ok", "goal"),
    [
        (Figure("stall", 1.5, "×", goal=2), True, "≤ 2 ×"),
        (Figure("stall", 2.5, "×", goal=2), False, "≤ 2 ×"),
        (Figure("throughput", 1.6, "×", goal=1.5, at_least=True), True, "≥ 1.5 ×"),
        (Figure("throughput", 1.4, "×", goal=1.5, at_least=True), False, "≥ 1.5 ×"),
        (Figure("requests", 9, ""), True, "stated"),
    ],
)
def test_a_figure_knows_whether_its_goal_is_reached(figure: Figure, ok: bool, goal: str) -> None:
    assert figure.ok is ok
    assert figure.goal_text == goal


def test_a_missed_goal_is_printed_as_missed() -> None:
    text = table([Figure("stall", 2.5, "×", goal=2, detail="the limit is the memory")])
    assert "MISSED" in text
    assert "the limit is the memory" in text


def test_the_last_line_is_json_and_parts_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"a": lambda quick: [Figure("fast", 1.0 if quick else 3.0, "s", goal=2)], "b": lambda quick: [Figure("other", 1, "")]}
    assert run("checkpoint", parts, ["--quick", "--only", "a"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"fast": {"value": 1.0, "goal": 2, "ok": True}}


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(SystemExit):
        run("checkpoint", {}, ["--only", "nothing"])


def test_pairs_are_measured_in_abba_order() -> None:
    order: list[str] = []

    def measure(name: str, value: float) -> float:
        order.append(name)
        return value

    results = paired(lambda: measure("a", 2), lambda: measure("b", 1), pairs=4)
    assert "".join(order) == "abbaabba"
    assert median_ratio(results) == 2


def test_an_interval_of_one_value_is_that_value() -> None:
    assert interval([3.0]) == (3.0, 3.0)
    assert interval([1.0, 2.0, 3.0]) == (1.5, 2.5)
