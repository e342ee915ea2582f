"""docs/operations.md tells what to do for each reason."""

from __future__ import annotations

import re
from pathlib import Path

from spottune_operator.api.reasons import Reason

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def test_every_reason_has_one_row_and_no_row_is_about_anything_else() -> None:
    first_cells = re.findall(r"^\| (`.*?) \|", PAGE.read_text(), flags=re.MULTILINE)
    named = [name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(reason.value for reason in Reason)
