"""The page of failpoints says what the code has."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "failpoints.md"


def in_code() -> list[tuple[str, str]]:
    files = [path for part in ("trainer", "operator") for path in (ROOT / part).rglob("*.py")]
    return sorted((name, str(path.relative_to(ROOT))) for path in files for name in re.findall(r'\bhit\("(\w+)"\)', path.read_text()))


def test_every_failpoint_of_the_code_is_on_the_page_with_its_file_and_nothing_else_is() -> None:
    on_page = sorted(re.findall(r"^\| ([TO]\d+) \| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE))
    assert on_page == in_code()


def test_every_failpoint_has_one_place() -> None:
    names = [name for name, _ in in_code()]
    assert len(names) == len(set(names)) == 20


def test_no_failpoint_has_a_computed_name() -> None:
    calls = [line for part in ("trainer", "operator") for path in (ROOT / part).rglob("*.py") for line in path.read_text().splitlines()]
    assert [line.strip() for line in calls if re.search(r"\bhit\((?!\"\w+\"\))", line)] == []
