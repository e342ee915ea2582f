"""A log as people read it: one line per record, in the order it was written, grouped by attempt and day. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from rich.text import Text

from spottune_cli.history import Attempt, Data, History, Row, Standing
from spottune_contract.records import Claim, Commit, Resume
from spottune_trainer.checkpoint.lineage import Damaged

WIDE = 120
"""From this many columns on there is room for what is nice to know."""
GAP = "  "
_DATA_STYLE = {Data.KEPT: "green", Data.PARTLY: "dim", Data.SWEPT: "dim", Data.MISSING: "bold red", Data.NONE: ""}
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True)
class Column:
    """One column of the table."""

    title: str
    cell: Callable[[Row, tzinfo | None], str]
    right: bool = True
    always: bool = False
    """Shown although nothing is in it."""
    wide: bool = False
    """Only where there is room."""


def size(count: float) -> str:
    """Bytes for people: `161 MB`, decimal units, three digits."""
    for unit, name in _UNITS:
        if count >= unit:
            value = count / unit
            return f"{value:.0f} {name}" if value >= 99.5 else f"{value:.3g} {name}"
    return f"{count:.0f} B"


def seconds(value: float | None) -> str:
    """`4 ms`, `0.42 s`, `3.1 s`, `72 s`, `12 min`; empty for None."""
    if value is None:
        return ""
    if value >= 600:
        return f"{value / 60:.0f} min"
    if value < 0.1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def moment(written_at: str, zone: tzinfo | None) -> datetime | None:
    """A record's time in a time zone (None: this machine's); None if there is none or it is no time."""
    try:
        return datetime.fromisoformat(written_at).astimezone(zone) if written_at else None
    except (ValueError, OverflowError):
        return None


def timeline(history: History, *, where: str, width: int, limit: int | None, zone: tzinfo | None = None) -> list[Text]:
    """Lines to print. `limit`: only so many of the newest records (None: all)."""
    rows = history.rows if limit is None else history.rows[len(history.rows) - min(limit, len(history.rows)) :]
    columns = [column for column in COLUMNS if width >= WIDE or not column.wide]
    cells = [[column.cell(row, zone) for column in columns] for row in rows]
    used = [place for place, column in enumerate(columns) if column.always or any(line[place] for line in cells)]
    columns = [columns[place] for place in used]
    cells = [[line[place] for place in used] for line in cells]
    widths = [max(len(column.title), *(len(line[place]) for line in cells)) for place, column in enumerate(columns)] if cells else []
    lines = [*summary(history, where, zone), Text()]
    if not cells:
        return lines
    lines.append(_line(columns, widths, [column.title for column in columns], "dim"))
    if skipped := len(history.rows) - len(rows):
        lines.append(Text(f"… {skipped:,} earlier records; --all shows them", "dim"))
    indent = " " * (widths[0] + len(GAP))
    day = owner = None
    for row, line in zip(rows, cells, strict=True):
        at = None if isinstance(row.entry, Damaged) else moment(row.entry.written_at, zone)
        if at is not None and at.date() != day:
            day = at.date()
            lines.append(Text(f"{indent}{at:%A} {at.day} {at:%B %Y}", "italic"))
        current = _owner(history.attempts, row.slot)
        if current is not owner and current is not None:
            lines.extend(_heading(current, owner, width))
            owner = current
        lines.append(_styled(_line(columns, widths, line), row))
        lines.extend(Text(f"{indent}  {note}", style) for note, style in _notes(row))
    return lines


def summary(history: History, where: str, zone: tzinfo | None) -> list[Text]:
    """The whole in three lines: where, how much, and how it stands."""
    commits = [
        row for row in history.rows if row.standing in (Standing.HEAD, Standing.LINEAGE, Standing.ASIDE) and row.data is not Data.NONE
    ]
    held = [row for row in commits if row.data is Data.KEPT]
    counts = [
        _many(len(history.rows), "record"),
        f"of {_many(len(history.attempts), 'attempt')}",
        f"· {_many(len(commits), 'commit')}, {len(held)} with data ({size(sum(row.size for row in held))})",
    ]
    for standing, word in ((Standing.VOID, "void"), (Standing.DAMAGED, "damaged")):
        if number := sum(row.standing is standing for row in history.rows):
            counts.append(f"· {number} {word}")
    return [Text(where, "bold"), Text(" ".join(counts)), _state(history, zone)]


def _state(history: History, zone: tzinfo | None) -> Text:
    head = history.head
    if head is None:
        return Text("Nothing was committed yet: a next attempt starts at step 0.", "yellow")
    at = moment(head.written_at, zone)
    when = f" at {at:%Y-%m-%d %H:%M:%S} ({at:%Z})" if at else ""
    loss = f", loss {head.loss:.4f}" if head.loss is not None else ""
    loss += f", evaluation loss {head.eval_loss:.4f}" if head.eval_loss is not None else ""
    if head.reason == "final":
        return Text(f"Finished with step {head.step}{when}{loss}.", "green")
    return Text(f"A next attempt goes on from step {head.step}, committed{when}{loss}.", "cyan")


def _many(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _owner(attempts: Sequence[Attempt], slot: int) -> Attempt | None:
    place = bisect_right(attempts, slot, key=lambda attempt: attempt.slot)
    return attempts[place - 1] if place else None


def _heading(attempt: Attempt, before: Attempt | None, width: int) -> list[Text]:
    """Who writes from here on; the compute class only if it is another one than before."""
    claim, writer = attempt.claim, attempt.writer.token
    head = Text(f"attempt {attempt.writer.epoch}", "bold cyan")
    if claim is None:
        return [head.append(f"{GAP}writer {writer} (its claim is in a damaged slot)", "not bold")]
    pod = claim.pod_uid if width >= WIDE else claim.pod_uid[:8]
    facts = [f"on {claim.node}" if claim.node else "", f"pod {pod}" if pod else "", f"writer {writer if width >= WIDE else writer[:8]}"]
    head.append("".join(f"{GAP}{fact}" for fact in facts if fact), "not bold")
    known = before.claim.compute_class if before is not None and before.claim is not None else ""
    return [head, Text(f"{' ' * 11}{claim.compute_class}", "dim")] if claim.compute_class not in ("", known) else [head]


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str], style: str = "") -> Text:
    padded = (cell.rjust(width) if column.right else cell.ljust(width) for column, width, cell in zip(columns, widths, cells, strict=True))
    return Text(GAP.join(padded).rstrip(), style)


def _styled(line: Text, row: Row) -> Text:
    if row.standing in (Standing.VOID, Standing.DAMAGED):
        line.stylize("red" if row.standing is Standing.DAMAGED or not row.explained else "dim strike")
        return line
    if row.standing is Standing.ASIDE:
        line.stylize("dim")
    if row.standing is Standing.HEAD:
        line.stylize("bold")
    if isinstance(row.entry, Commit):
        line.highlight_words([row.data.value], _DATA_STYLE[row.data])
    elif row.standing is Standing.EFFECTIVE:
        line.stylize("dim")
    return line


def _notes(row: Row) -> list[tuple[str, str]]:
    if isinstance(row.entry, Resume) and row.standing is not Standing.VOID:
        return [(f"stepped over slot {rejected.slot}: {rejected.why}", "yellow") for rejected in row.entry.rejected]
    origin = row.entry.origin if isinstance(row.entry, Commit) else None
    if origin is not None and row.standing is not Standing.VOID:
        return [(f"from slot {origin.slot} (attempt {origin.epoch}) of {origin.location}", "dim"), *_condition_of(row)]
    return _condition_of(row)


def _condition_of(row: Row) -> list[tuple[str, str]]:
    if row.why:
        return [(row.why, "red" if row.standing is Standing.DAMAGED or not row.explained else "dim")]
    if row.data is Data.MISSING:
        return [("its data are gone, although retention keeps them: see `spottune verify`", "bold red")]
    if row.standing is Standing.ASIDE:
        return [("left aside: a later resume went on from an older commit", "dim")]
    return []


# --- cells ------------------------------------------------------------------------------------------------------------------


def _when(row: Row, zone: tzinfo | None) -> str:
    at = None if isinstance(row.entry, Damaged) else moment(row.entry.written_at, zone)
    return f"{at:%H:%M:%S}" if at else ""


def _record(row: Row, _: tzinfo | None) -> str:
    entry = row.entry
    if isinstance(entry, Claim):
        return "claim"
    if isinstance(entry, Resume):
        return "start" if entry.parent is None else f"resume ← {entry.parent}"
    if isinstance(entry, Commit):
        word = "FINAL" if entry.reason == "final" else entry.reason
        return f"{word}, pinned" if entry.pinned else word
    return "damaged"


def _data(row: Row, _: tzinfo | None) -> str:
    marks = {Standing.VOID: "void", Standing.HEAD: "◀ head", Standing.ASIDE: "aside"}
    return " ".join(filter(None, (row.data.value, marks.get(row.standing, ""))))


def _of_commit(show: Callable[[Commit], str]) -> Callable[[Row, tzinfo | None], str]:
    return lambda row, _: show(row.entry) if isinstance(row.entry, Commit) else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


COLUMNS = (
    Column("slot", lambda row, _: str(row.slot), always=True),
    Column("time", _when, right=False),
    Column("record", _record, right=False, always=True),
    Column("step", lambda row, _: "" if row.step is None else f"{row.step:,}", always=True),
    Column("samples", _of_commit(lambda commit: f"{commit.samples_seen:,}"), wide=True),
    Column("loss", _of_commit(lambda commit: _number(commit.loss))),
    Column("eval loss", _of_commit(lambda commit: _number(commit.eval_loss))),
    Column("size", lambda row, _: size(row.size) if isinstance(row.entry, Commit) else ""),
    Column("snapshot", _of_commit(lambda commit: seconds(commit.timings.get("snapshot"))), wide=True),
    Column("upload", _of_commit(lambda commit: seconds(commit.timings.get("upload")))),
    Column("notice→commit", _of_commit(lambda commit: seconds(commit.timings.get("notice_to_commit")))),
    Column("data", _data, right=False),
)
"""From left to right. A column in which nothing stands is left out."""
