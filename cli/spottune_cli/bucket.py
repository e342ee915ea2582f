"""Reading a job's log and data from its bucket, with patience and a progress bar. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from spottune_cli.errors import Exit, Refusal
from spottune_contract.layout import parse_data_key, slot_key
from spottune_contract.records import Commit, DataFile, file_digest
from spottune_trainer.checkpoint.drive import Driver, Patience
from spottune_trainer.checkpoint.errors import LogNotUnderstood, StorageDenied, StorageUnavailable
from spottune_trainer.checkpoint.inspection import Records, part_of, read_records
from spottune_trainer.checkpoint.lineage import Log, fold
from spottune_trainer.checkpoint.store import Denied, Listed, Store, Unavailable
from spottune_trainer.checkpoint.transfer import LOOKS, Files, Steps, intact, list_keys, load_files

T = TypeVar("T")

REACH_SECONDS = 8.0
"""A store that gave no answer to three requests, or after this long, is said not to answer; one request may take 20 s."""
PATIENCE = Patience(unavailable=900.0, denied=0.0)
"""For thousands of records, or one object of 64 MiB on a slow line."""
SHOW_AFTER_SECONDS = 2.0


@dataclass(frozen=True)
class Contents:
    """What is under a job's prefix, as far as it was read."""

    log: Log = field(repr=False)
    beyond: tuple[int, ...]
    """Slots that exist after the first missing one."""
    keys: tuple[str, ...] = field(repr=False)
    """Listed keys, relative to the job's root."""
    settled: int
    """Slots that the log had before the keys were listed: what later ones name may not be among the keys."""


Tick = Callable[[int, int], None]
"""Told how much is done, of how much."""


class Bucket:
    """One job's objects."""

    def __init__(self, store: Store, console: Console | None = None) -> None:
        self._store = store
        self._driver = Driver(store)
        self._console = console

    def contents(self, prefix: str) -> Contents:
        """The log to its end, and the keys under `prefix`. Raises `Refusal` if there is nothing at all."""
        self._reach()
        with self._meter("reading the log") as tick:
            first = self._run(read_records(seen=tick))
        keys = tuple(self._run(list_keys(prefix, "")))
        if not first.entries and not first.beyond and not any(map(parse_data_key, keys)):
            raise Refusal(Exit.USAGE, self._nothing_here())
        # A job may be running: what was committed while the keys were listed belongs to the picture.
        last = self._run(read_records(first.entries))
        return Contents(fold(last.entries), last.beyond, keys, len(first.entries))

    def again(self, contents: Contents) -> Log:
        """The log with what was written since."""
        last: Records = self._run(read_records(contents.log.entries))
        return fold(last.entries)

    def check(self, commits: Sequence[Commit]) -> Iterator[tuple[Commit, tuple[str, str] | None]]:
        """Download and hash every file of these commits: each commit with the key and fault of its first bad file, or None."""
        total = sum(file.size for commit in commits for file in commit.files)
        done = 0
        with self._meter("checking data", scale=1e6, unit="MB") as tick:

            def seen(size: int) -> None:
                nonlocal done
                done += size
                tick(done, total)

            for commit in commits:
                yield commit, self._check(commit, seen)

    def load(self, commit: Commit, names: Sequence[str]) -> Files | str:
        """These files of a commit, verified, or what is wrong with one."""
        return self._run(load_files(part_of(commit, names)))

    def _run(self, steps: Steps[T]) -> T:
        try:
            return self._driver.run(steps, patience=PATIENCE)
        except LogNotUnderstood as error:
            raise Refusal(Exit.USAGE, f"{self._store.name}: {error}") from None
        except StorageUnavailable as error:
            raise self._silent(error.last) from None
        except StorageDenied as error:
            raise Refusal(Exit.UNREACHABLE, str(error)) from None

    def _reach(self) -> None:
        """The first request. Nobody wants to wait for a mistyped endpoint as long as for a store that is busy."""
        until = time.monotonic() + REACH_SECONDS
        looks = 1
        while isinstance(result := self._store.list("probe/", ""), Unavailable):
            if looks == LOOKS or time.monotonic() >= until:
                raise self._silent(result.detail)
            looks += 1
            time.sleep(0.5)
        if isinstance(result, Denied):
            raise Refusal(Exit.UNREACHABLE, f"{self._store.name}: {result.message}")

    def _silent(self, last: str) -> Refusal:
        return Refusal(Exit.UNREACHABLE, f"{self._store.name} does not answer ({last}): check the network and the endpoint (--endpoint)")

    def _check(self, commit: Commit, seen: Callable[[int], None]) -> tuple[str, str] | None:
        for name, digest in commit.digests.items():
            fault = self._check_file([file for file in commit.files if file.name == name], digest, seen)
            if fault is not None:
                return fault
        return None

    def _check_file(self, parts: Sequence[DataFile], digest: str, seen: Callable[[int], None]) -> tuple[str, str] | None:
        """One object after the other, each let go before the next is asked for: a state may be larger than this machine's memory."""
        for part in parts:
            body = self._run(intact(part))
            if isinstance(body, str):
                return part.key, body.removeprefix(part.key).lstrip(": ")
            seen(len(body))
            del body
        if file_digest([part.sha256 for part in parts]) != digest:
            return parts[0].key, "the record's digest of the file is not that of its parts"
        return None

    def _nothing_here(self) -> str:
        message = f"there is no checkpoint log at {self._store.name}"
        suffix = f"/{slot_key(0)}"
        page = self._store.list("", "")
        found = [key.removesuffix(suffix) for key in page.keys if key.endswith(suffix)] if isinstance(page, Listed) else []
        if found:
            return f"{message}, but below it: {', '.join(found[:5])}{' …' if len(found) > 5 else ''}; add one of these to the URI"
        return f"{message}: a job's log is at s3://BUCKET/PREFIX/<cluster>/<namespace>/<job uid>; `kubectl get ftj -o yaml` tells it in status.log"

    @contextmanager
    def _meter(self, what: str, *, scale: float = 1.0, unit: str = "") -> Iterator[Tick]:
        """A bar on a terminal for what takes longer than two seconds."""
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"), TextColumn(unit),
            TimeRemainingColumn(), console=self._console, transient=True,
        )  # fmt: skip
        task = bar.add_task(what, total=1)
        began, shown = time.monotonic(), False

        def tick(done: int, of: int) -> None:
            nonlocal shown
            bar.update(task, completed=done / scale, total=of / scale)
            if not shown and self._console is not None and self._console.is_terminal and time.monotonic() - began > SHOW_AFTER_SECONDS:
                bar.start()
                shown = True

        try:
            yield tick
        finally:
            if shown:
                bar.stop()
