"""The table: one line per record, what is odd in words below it, and nothing shown that nothing stands in."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone

import pytest

from spottune_cli.history import History
from spottune_cli.timeline import seconds, size, timeline
from spottune_trainer.checkpoint.lineage import Entry
from tests.unit.cli.logs import ORIGIN, claim, commit, damaged, history, resume, story


def shown(of: History, *, width: int = 100, limit: int | None = None, zone: timezone = UTC) -> list[str]:
    return [line.plain for line in timeline(of, where="s3://b/job", width=width, limit=limit, zone=zone)]


def line_of(lines: list[str], slot: int) -> str:
    return next(line for line in lines if line[:4].strip() == str(slot))


def test_a_story_reads_like_this() -> None:
    assert "\n".join(shown(history(story(), 2, 3, 6), width=100)) == (
        "s3://b/job\n"
        "10 records of 2 attempts · 5 commits, 3 with data (240 MB) · 1 void\n"
        "Finished with step 60 at 2026-11-27 23:39:00 (UTC), loss 2.9000, evaluation loss 2.8000.\n"
        "\n"
        "slot  time      record      step    loss  eval loss   size  upload  notice→commit  data\n"
        "      Friday 27 November 2026\n"
        "attempt 1  on node-1  pod pod-uid-  writer writer00\n"
        "           cpu avx2\n"
        "   0  23:30:00  claim\n"
        "   1  23:31:00  start          0\n"
        "   2  23:32:00  interval      10  3.4000     3.2100  80 MB   1.2 s                 swept\n"
        "   3  23:33:00  notice        20  3.3000             80 MB  0.80 s          1.1 s  swept aside\n"
        "        left aside: a later resume went on from an older commit\n"
        "attempt 2  on node-2  pod pod-uid-  writer writer00\n"
        "   4  23:34:00  claim\n"
        "   5  23:35:00  resume ← 2    10\n"
        "        stepped over slot 3: adapter.safetensors: SHA-256 differs\n"
        "   6  23:36:00  sigterm       21  3.2900             80 MB   1.2 s                 swept void\n"
        "        written by attempt 1 (writer00), but attempt 2 (writer00) owned the log since slot 4\n"
        "   7  23:37:00  recommit      10  3.4000             80 MB                         kept\n"
        "   8  23:38:00  interval      30  3.2000             80 MB   1.2 s                 kept\n"
        "   9  23:39:00  FINAL         60  2.9000     2.8000  80 MB   1.2 s                 kept ◀ head"
    )


@pytest.mark.parametrize("width", [100, 160])
def test_the_table_fits_the_terminal(width: int) -> None:
    assert max(map(len, shown(history(story()), width=width))) <= width


def test_a_wide_terminal_shows_more() -> None:
    wide = shown(history(story()), width=160)
    assert "samples" in wide[4]
    assert "snapshot" in wide[4]
    assert any("writer0001" in line for line in wide)


def test_a_column_in_which_nothing_stands_is_left_out() -> None:
    lines = shown(history([claim(0, 1), resume(1, 1, None), commit(2, 1, 5)]))
    assert "eval loss" not in lines[4]
    assert "notice→commit" not in lines[4]


def test_of_a_long_log_the_newest_records_are_shown_with_their_attempt_and_the_rest_counted() -> None:
    entries: list[Entry] = [claim(0, 1), resume(1, 1, None), *(commit(slot, 1, slot, written_at="") for slot in range(2, 3000))]
    lines = shown(history(entries, *range(2, 2990)), limit=50)
    assert any("2,950 earlier records; --all shows them" in line for line in lines)
    assert any(line.startswith("attempt 1") for line in lines)
    assert len(lines) < 60
    assert len(shown(history(entries))) > 3000


def test_damage_is_marked_with_its_reason() -> None:
    lines = shown(history([claim(0, 1), resume(1, 1, None), damaged(2), commit(3, 1, 5)]))
    assert "damaged" in line_of(lines, 2)
    assert any("hash differs from content" in line for line in lines)
    assert "1 damaged" in lines[1]


def test_missing_data_are_said_below_the_commit() -> None:
    lines = shown(history(story(), 9))
    assert "missing ◀ head" in line_of(lines, 9)
    assert "spottune verify" in lines[lines.index(line_of(lines, 9)) + 1]


def test_times_are_those_of_the_readers_zone_and_a_new_day_gets_a_line() -> None:
    entries: list[Entry] = [claim(0, 1), resume(1, 1, None), *(commit(slot, 1, slot) for slot in range(2, 40))]
    lines = shown(history(entries))
    assert [line.strip() for line in lines if "November" in line] == ["Friday 27 November 2026", "Saturday 28 November 2026"]
    east = shown(history(entries), zone=timezone(timedelta(hours=5, minutes=45)))
    assert "05:15:00" in line_of(east, 0)


@pytest.mark.parametrize("written_at", ["", "yesterday", "0001-01-01T00:00:00+00:00"])
def test_a_record_without_a_usable_time_is_shown_without_one(written_at: str) -> None:
    zone = timezone(-timedelta(hours=1))
    assert ":" not in line_of(shown(history([claim(0, 1, written_at=written_at)]), zone=zone), 0)


def test_an_empty_lineage_says_that_training_starts_at_step_0() -> None:
    assert "a next attempt starts at step 0" in shown(history([claim(0, 1)]))[2]


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1_550, "1.55 kB"), (161_000_000, "161 MB"), (99_900_000, "100 MB"), (2.5e9, "2.5 GB")])  # fmt: skip
def test_sizes_have_three_digits(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0.004, "4 ms"), (0.25, "0.25 s"), (1.25, "1.2 s"), (72.4, "72 s"), (720.0, "12 min")]
)
def test_seconds_are_short(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_a_state_of_another_job_says_whose_it_is() -> None:
    lines = shown(history([claim(0, 1), resume(1, 1, None), commit(2, 1, 40, "imported", origin=ORIGIN), commit(3, 1, 50)]))
    place = lines.index(line_of(lines, 2))
    assert "imported" in lines[place]
    assert lines[place + 1].strip() == "from slot 7 (attempt 3) of s3://b/other"
