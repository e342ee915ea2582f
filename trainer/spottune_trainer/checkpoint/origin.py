"""Reading the one commit of another job's log that a job starts from (`resumeFrom`). Nothing is ever written there.

The other job may be running: its retention may sweep a commit while it is read. That is told apart from damage by a second look at
its log, and the next attempt chooses again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from spottune_contract.records import Commit
from spottune_contract.records import Origin as OriginRecord
from spottune_trainer.checkpoint.drive import Driver
from spottune_trainer.checkpoint.errors import LogNotUnderstood, NoReadableCheckpoint, OriginSwept, OriginUnusable
from spottune_trainer.checkpoint.inspection import Records, read_records
from spottune_trainer.checkpoint.lineage import Log, fold
from spottune_trainer.checkpoint.log import AT_CLAIM, AT_RESUME
from spottune_trainer.checkpoint.store import Store
from spottune_trainer.checkpoint.transfer import Files, list_keys, load_files


class OriginLog:
    """Another job's log, to be read once: `find`, then `load`. Errors are `CheckpointError`s that name `resumeFrom` and the place."""

    def __init__(self, store: Store, location: str) -> None:
        self._store_name = store.name
        self._location = location
        self._driver = Driver(store)
        self._records = Records(())

    def find(self, step: int | None) -> Commit:
        """The commit of `step`, or the newest. Raises `OriginUnusable`, `LogNotUnderstood`, `StorageDenied`, `StorageUnavailable`."""
        with self._named():
            self._records = self._driver.run(read_records(), patience=AT_CLAIM)
            # Only now: data that are listed after their record was read are kept, or were swept for a newer one.
            keys = self._keys()
            return choose(self._records, keys, step)

    def load(self, commit: Commit) -> Files:
        """Its verified files. Raises `OriginSwept` if the other job went on meanwhile, else `NoReadableCheckpoint`."""
        with self._named():
            loaded = self._driver.run(load_files(commit), patience=AT_RESUME)
            if not isinstance(loaded, str):
                return loaded
            now = self._driver.run(read_records(self._records.entries), patience=AT_CLAIM)
            newer = any(isinstance(entry, Commit) for entry in now.entries[len(self._records.entries) :])
            what = f"step {commit.step} (slot {commit.slot}) cannot be read: {loaded}"
            if newer:
                raise OriginSwept(f"{what}; that job has committed since and sweeps old data: the next attempt looks again")
            raise NoReadableCheckpoint(
                f"{what}; restore the objects from the bucket's versions, or create a new job that names another step: "
                f"{_there_is(kept_commits(fold(now.entries), self._keys()))}"
            )

    def origin(self, commit: Commit) -> OriginRecord:
        """For the record of the commit that repeats it."""
        return OriginRecord(location=self._location, slot=commit.slot, epoch=commit.epoch, writer=commit.writer, save=commit.save)

    def _keys(self) -> list[str]:
        return self._driver.run(list_keys("data/", ""), patience=AT_CLAIM)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OriginUnusable, OriginSwept, NoReadableCheckpoint, LogNotUnderstood) as error:
            raise type(error)(f"resumeFrom: {self._store_name}: {error}", reason=error.reason) from None


def choose(records: Records, keys: Collection[str], step: int | None) -> Commit:
    """The commit that `step` means (None: the newest), given the listed data keys. Pure. Raises `OriginUnusable` saying what there is."""
    if not records.entries and not records.beyond:
        raise OriginUnusable(
            "there is no checkpoint log: create a new job with resumeFrom.location as in status.log.location of the other job",
            reason="ResumeFromMissing",
        )
    log = fold(records.entries)
    kept = kept_commits(log, keys)
    if step is not None:
        if step not in kept:
            raise OriginUnusable(
                f"step {step} is not kept: create a new job with another resumeFrom.step, {_there_is(kept)}", reason="ResumeFromNotKept"
            )
        return kept[step]
    if records.beyond or log.damaged_since_resume():
        raise OriginUnusable(
            "records of the log are missing or damaged, so its newest commit is not known: restore them from the bucket's versions, "
            f"or create a new job that names a resumeFrom.step, {_there_is(kept)}"
        )
    if log.head is None:
        raise OriginUnusable(
            "nothing was committed there yet: wait for the first commit, then set spec.retryToken", reason="ResumeFromNotKept"
        )
    return log.commit(log.head)


def kept_commits(log: Log, keys: Collection[str]) -> Mapping[int, Commit]:
    """Commits of the lineage whose data are all listed, by step; of two of one step the newer."""
    present, kept = frozenset(keys), dict[int, Commit]()
    for commit in log.lineage():
        if all(file.key in present for file in commit.files):
            kept.setdefault(commit.step, commit)
    return kept


def _there_is(kept: Mapping[int, Commit]) -> str:
    return f"kept: {', '.join(map(str, sorted(kept)))}" if kept else "none is kept whole"
