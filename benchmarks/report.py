"""Figures with goals, as a table for people and one JSON object, on the last line, for programs."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured figure. `value` is compared with `goal`: at most it, or at least it if `at_least`; goal None: only stated."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_least: bool = False
    detail: str = ""
    """What the value was made of, and if the goal is missed the limit that stops it."""

    @property
    def ok(self) -> bool:
        if self.goal is None:
            return True
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    @property
    def goal_text(self) -> str:
        if self.goal is None:
            return "stated"
        return f"{'≥' if self.at_least else '≤'} {self.goal:g} {self.unit}".rstrip()


Part = Callable[[bool], Sequence[Figure]]
"""Measures some figures; the argument is True for a quick run."""


def run(name: str, parts: Mapping[str, Part], argv: Sequence[str] | None = None) -> int:
    """Measure and print. Returns the exit status: 0 if it could be measured, goals reached or not."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description="Figures and goals; the last line is JSON.")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and smaller states: to see that it runs")
    parser.add_argument("--only", action="append", choices=sorted(parts), help="measure only this part (may be given several times)")
    options = parser.parse_args(argv)
    figures: list[Figure] = []
    for part, measure in parts.items():
        if options.only and part not in options.only:
            continue
        started = time.monotonic()
        print(f"… {part}", file=sys.stderr, flush=True)
        found = measure(options.quick)
        print(f"  {part}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        figures.extend(found)
    print(table(figures))
    print(json.dumps({f.name: {"value": f.value, "goal": f.goal, "ok": f.ok} for f in figures}))
    return 0


def table(figures: Sequence[Figure]) -> str:
    """Columns: figure, value, goal, reached, detail."""
    rows = [
        (f.name, f"{f.value:.4g} {f.unit}".rstrip(), f.goal_text, "" if f.goal is None else "yes" if f.ok else "MISSED", f.detail)
        for f in figures
    ]
    head = ("figure", "measured", "goal", "reached", "detail")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(4)]
    lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(4)), row[4]]).rstrip() for row in [head, *rows]]
    return "\n".join(lines)


def paired(first: Callable[[], float], second: Callable[[], float], pairs: int) -> list[tuple[float, float]]:
    """Measure two things in ABBA order, so that a drift of the machine hits both alike. Each call returns its own measurement."""
    results = []
    for turn in range(pairs):
        gc.collect()
        if turn % 2 == 0:
            a, b = first(), second()
        else:
            b, a = second(), first()
        results.append((a, b))
    return results


def median_ratio(results: Sequence[tuple[float, float]]) -> float:
    """Median of first/second over the pairs."""
    return statistics.median(a / b for a, b in results)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile; the value itself, twice, for a single one."""
    if len(values) < 2:
        return values[0], values[0]
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    return quartiles[0], quartiles[2]
