"""`spottune verify`: ask every check, then download and hash what must be there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from spottune_cli.audit import Evidence, Violation, bad_data, orphans, to_download, violations
from spottune_cli.bucket import Bucket, Contents
from spottune_cli.history import History, Standing, understand
from spottune_cli.timeline import size
from spottune_contract.records import Claim, Commit, Resume
from spottune_trainer.checkpoint.lineage import MIN_KEPT, kept


@dataclass(frozen=True)
class Checked:
    """What was downloaded and found equal."""

    commits: int = 0
    objects: int = 0
    bytes: int = 0
    swept_meanwhile: int = 0
    """Commits whose data retention took away while they were checked."""


def audit(bucket: Bucket, keep_last: int | None, *, everything: bool, say: Callable[[str], None]) -> int:
    """Tell what was checked, and every violation (or the first). Returns how many were told."""
    contents = bucket.contents("")
    history = understand(contents.log, contents.keys, settled=contents.settled, keep_last=keep_last)
    evidence = Evidence(history, contents.beyond, contents.keys)
    say(_records(history))
    say(_lineage(history))
    told = 0
    for violation in violations(evidence):
        say(f"VIOLATION  {violation}")
        told += 1
        if not everything:
            return told
    checked = Checked()
    for outcome in _data(bucket, contents, history, keep_last):
        if isinstance(outcome, Checked):
            checked = outcome
            continue
        say(f"VIOLATION  {outcome}")
        told += 1
        if not everything:
            return told
    say(_downloaded(checked, keep_last))
    say(_others(evidence))
    return told


def _data(bucket: Bucket, contents: Contents, history: History, keep_last: int | None) -> Iterator[Violation | Checked]:
    must, also = to_download(history, keep_last)
    slots = {commit.slot for commit in must}
    checked = Checked()
    for commit, fault in bucket.check([*must, *also]):
        if fault is None:
            checked = replace(
                checked, commits=checked.commits + 1, objects=checked.objects + len(commit.files), bytes=checked.bytes + _bytes(commit)
            )
        elif "missing" in fault[1] and (commit.slot not in slots or _no_longer_kept(bucket, contents, commit, keep_last)):
            checked = replace(checked, swept_meanwhile=checked.swept_meanwhile + 1)
        else:
            yield bad_data(commit, *fault)
        yield checked


def _no_longer_kept(bucket: Bucket, contents: Contents, commit: Commit, keep_last: int | None) -> bool:
    """The job went on while we looked: newer commits have taken this one's place."""
    return commit.slot not in {c.slot for c in kept(bucket.again(contents), keep_last or MIN_KEPT)}


def _records(history: History) -> str:
    rows = history.rows
    claims = sum(isinstance(row.entry, Claim) and row.standing is Standing.EFFECTIVE for row in rows)
    resumes = sum(isinstance(row.entry, Resume) and row.standing is Standing.EFFECTIVE for row in rows)
    void = sum(row.standing is Standing.VOID for row in rows)
    damaged = len(history.log.damaged)
    parts = [f"{claims} claims", f"{resumes} resumes", f"{len(history.log.parents)} commits", f"{void} void", f"{damaged} damaged"]
    return f"records    {len(rows)} read: {', '.join(parts)}; highest attempt {history.log.max_epoch}"


def _lineage(history: History) -> str:
    steps = [commit.step for commit in history.log.lineage()]
    if not steps:
        return "lineage    no commit yet"
    end = "finished" if history.log.final is not None else "head"
    return f"lineage    {len(steps)} commits, steps {steps[-1]} to {steps[0]} ({end}, slot {history.log.head})"


def _downloaded(checked: Checked, keep_last: int | None) -> str:
    known = f"keepLast {keep_last}" if keep_last else f"keepLast not known, so at least {MIN_KEPT}"
    swept = f"; {checked.swept_meanwhile} swept by the running job meanwhile" if checked.swept_meanwhile else ""
    return f"data       {checked.commits} commits, {checked.objects} objects, {size(checked.bytes)} downloaded and hashed ({known}){swept}"


def _others(evidence: Evidence) -> str:
    probes, tails = (sum(key.startswith(prefix) for key in evidence.keys) for prefix in ("probe/", "tail/"))
    return f"other      {len(orphans(evidence))} orphaned data objects (saves under way, or for the next attempt to sweep), {probes} probes, {tails} log tails"


def _bytes(commit: Commit) -> int:
    return sum(file.size for file in commit.files)
