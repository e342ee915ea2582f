from __future__ import annotations

import io

import pytest

from spottune_trainer.logs import Tail
from spottune_trainer.supervision import Policy


@pytest.mark.parametrize(
    ("since", "step", "every", "due"),
    [(59.0, 7, None, False), (60.0, 7, None, True), (1.0, 8, 4, True), (1.0, 7, 4, False), (60.0, 7, 4, True)],
)
def test_a_commit_is_due_after_the_interval_or_the_steps(since: float, step: int, every: int | None, due: bool) -> None:
    assert Policy(60.0, every).due(since_last=since, step=step) is due


def test_the_tail_keeps_whole_lines_up_to_its_limit_and_passes_everything_on() -> None:
    stream = io.StringIO()
    tail = Tail(stream, limit=10)
    for line in ("aaaa\n", "bbbb\n", "cccc\n"):
        tail.write(line)
    assert tail.text() == b"bbbb\ncccc\n"
    assert stream.getvalue() == "aaaa\nbbbb\ncccc\n"


def test_a_line_longer_than_the_tail_is_cut_at_its_start() -> None:
    tail = Tail(io.StringIO(), limit=4)
    tail.write("abcdef\n")
    assert tail.text() == b"def\n"


def test_a_broken_stdout_does_not_end_a_training() -> None:
    stream = io.StringIO()
    tail = Tail(stream)
    stream.close()
    tail.write("line\n")
    assert tail.text() == b"line\n"
