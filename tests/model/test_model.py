"""The checkpoint protocol's SPIN model: searched whole, nothing breaks; without any one safeguard, a property does."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

MODEL = Path(__file__).resolve().parents[2] / "docs" / "model" / "checkpoint.pml"
TWO_WRITERS = ("WRITERS=2", "SAVES=3", "LATE=1")
THREE_WRITERS = ("WRITERS=3", "SAVES=1", "LATE=0")
PROPERTIES = {
    "acknowledged_commit_counts",
    "lower_epoch_is_void",
    "steps_rise",
    "newest_data_kept",
    "goes_back_only_with_a_reason",
    "rejection_is_recorded",
    "never_silently_starts_over",
}


@dataclass(frozen=True)
class Search:
    """What pan said."""

    states: int
    broken: str | None
    """Text of the assertion that failed."""
    complete: bool
    report: str


def search(folder: Path, *macros: str, optimise: str = "-O0") -> Search:
    """Generate, compile and run the verifier in `folder`. Most searches are shorter than an optimised compilation."""
    for program, package in (("spin", "spin"), ("gcc", "gcc")):
        assert shutil.which(program), f"{program} is not installed: apt-get install {package} (all of localcloud/packages.txt)"

    def run(*argv: str) -> str:
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{argv[0]}: {done.stdout}{done.stderr}"
        return done.stdout

    run("spin", *(f"-D{macro}" for macro in macros), "-a", str(MODEL))
    # A search that does not fit into 2 GB says so, and is then not complete.
    run("gcc", optimise, "-w", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=2000", "-o", "pan", "pan.c")
    report = run("./pan", "-m1000000")
    broken = re.search(r"assertion violated \(?(\w+)", report) or re.search(r"pan:\d+: (.+) \(at depth", report)
    states = re.search(r"(\d+) states, stored", report)
    assert states, report
    complete = "errors: 0" in report and not re.search(r"Search not completed|max search depth too small|out of memory|truncated", report)
    return Search(int(states[1]), broken[1] if broken else None, complete, report)


@pytest.mark.parametrize(("bounds", "at_least"), [(TWO_WRITERS, 1_000_000), (THREE_WRITERS, 1_000_000)])
def test_every_interleaving_keeps_every_property(
    tmp_path: Path, record_property: Callable[[str, object], None], bounds: tuple[str, ...], at_least: int
) -> None:
    found = search(tmp_path, *bounds, optimise="-O2")
    record_property("states", found.states)
    assert found.complete, found.report
    assert found.states > at_least, "the model can do less than it could: something keeps its processes from moving"


@pytest.mark.parametrize(
    ("mutation", "bounds", "broken"),
    [
        ("PARENT_IN_CLAIM", TWO_WRITERS, {"never_silently_starts_over", "goes_back_only_with_a_reason", "rejection_is_recorded"}),
        ("NO_READ_BACK", TWO_WRITERS, {"acknowledged_commit_counts", "lower_epoch_is_void"}),
        ("STEP_OVER_UNREADABLE", TWO_WRITERS, {"never_silently_starts_over", "goes_back_only_with_a_reason"}),
        ("STEP_OVER_CLAIM", TWO_WRITERS, {"lower_epoch_is_void", "acknowledged_commit_counts"}),
        ("CLAIM_ANY_EPOCH", TWO_WRITERS, {"acknowledged_commit_counts"}),
        ("SKIP_SLOT_WITHOUT_ANSWER", TWO_WRITERS, {"acknowledged_commit_counts"}),
        ("DELETE_BEFORE_COMMIT", TWO_WRITERS, {"newest_data_kept"}),
        ("COMMIT_BEFORE_DATA", TWO_WRITERS, {"newest_data_kept"}),
        ("KEEP_ONE", TWO_WRITERS, {"newest_data_kept"}),
        ("START_OVER", TWO_WRITERS, {"never_silently_starts_over"}),
        ("SILENT_REJECTION", TWO_WRITERS, {"rejection_is_recorded"}),
        ("IGNORE_OLDER_CLAIM", THREE_WRITERS, {"goes_back_only_with_a_reason"}),
        ("LOST_PARENT_SETTLED", THREE_WRITERS, {"never_silently_starts_over"}),
    ],
)
def test_without_a_safeguard_a_property_breaks(tmp_path: Path, mutation: str, bounds: tuple[str, ...], broken: set[str]) -> None:
    assert broken <= PROPERTIES
    assert f"def {mutation}\n" in MODEL.read_text() or f"defined({mutation})" in MODEL.read_text(), f"the model knows no {mutation}"
    found = search(tmp_path, mutation, *bounds)
    assert found.broken in broken, found.report
