"""One process's part in the checkpoint protocol, as generators that yield store requests and receive their results.

No I/O, clock or thread is in here: `drive.Driver` runs these steps against a real store, the simulation runs the same steps of
several writers interleaved at every request. What results mean is decided in `lineage`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from spottune_contract.failpoint import hit
from spottune_contract.layout import MAX_OBJECT_BYTES, probe_key, slot_key
from spottune_contract.records import (
    Claim,
    Commit,
    CommitReason,
    Origin,
    Rejected,
    Resume,
    encode,
)
from spottune_trainer.checkpoint.errors import (
    EpochStale,
    Fenced,
    LogBlocked,
    LogOfAnotherJob,
    NoReadableCheckpoint,
    StorageDenied,
    Unacceptable,
)
from spottune_trainer.checkpoint.lineage import (
    ClaimStep,
    Damaged,
    Entry,
    Honesty,
    Log,
    Writer,
    WriteStep,
    deletable,
    foreign_claim,
    interpret_claim_slot,
    interpret_probe,
    interpret_slot,
    knows_kept,
    may_start_over,
    needs_recommit,
    passed_over,
    pins,
    resume_candidates,
)
from spottune_trainer.checkpoint.reading import WINDOW, look, read_older, read_to_end
from spottune_trainer.checkpoint.store import Backoff, Delete, Deleted, DeleteResult, Found, Get, GetResult, Put, PutResult, Together
from spottune_trainer.checkpoint.transfer import Files, Steps, Uploaded, list_keys, load_files, refusal, store_files

Own = TypeVar("Own", Commit, Resume)


@dataclass(frozen=True)
class ClaimOutcome:
    """`final` set: the run is finished and nothing was claimed. Otherwise this process owns the log."""

    final: Commit | None


@dataclass(frozen=True)
class Restored:
    """What a resume goes on from."""

    commit: Commit
    files: Files = field(repr=False)
    rejected: tuple[Rejected, ...]
    """What had to be stepped over, newest first, as recorded in the RESUME."""


@dataclass(frozen=True)
class Facts:
    """What a COMMIT says besides its files."""

    step: int
    samples_seen: int
    reason: CommitReason
    pinned: bool = False
    loss: float | None = None
    eval_loss: float | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    origin: Origin | None = None


class Protocol:
    """The steps of one process: `probe`, `claim`, `resume`, then `upload` and `seal` for every commit, `retain` in between.

    `token` gives a new random identity, `stamp` the wall clock as text (for people only).
    """

    def __init__(
        self,
        me: Writer,
        *,
        min_slot: int,
        token: Callable[[], str],
        stamp: Callable[[], str],
        part_bytes: int = MAX_OBJECT_BYTES,
        window: int = WINDOW,
    ) -> None:
        self.me = me
        self.log = Log()
        self._min_slot = min_slot
        self._token = token
        self._stamp = stamp
        self._part_bytes = part_bytes
        self._window = window

    # --- start ----------------------------------------------------------------------------------------------------------

    def probe(self, store_name: str) -> Steps[None]:
        """Refuse a store whose conditional writes cannot be relied on. Raises `StorageDenied`."""
        for attempt in count():
            key = probe_key(self._token())
            bodies = [self._token().encode(), self._token().encode()]
            racing: list[PutResult] = yield Together(tuple(Put(key, body) for body in bodies))
            third: PutResult = yield Put(key, b"third")
            found: GetResult = yield Get(key, 64)
            honesty = interpret_probe(racing, bodies, third, found.body if isinstance(found, Found) else None)
            if honesty is Honesty.DISHONEST:
                raise StorageDenied(
                    f"{store_name} answered success to more than one PUT with If-None-Match: * to the same key; "
                    "use a store that honours conditional writes (AWS S3, a current MinIO, SeaweedFS …)",
                    reason="ConditionalWritesUnsupported",
                )
            if honesty is Honesty.HONEST:
                # Best effort: whoever may not delete leaves a few bytes behind.
                yield Delete(key)
                hit("T1")
                return
            yield Backoff(attempt, refusal(*racing, third, found))

    def claim(
        self, *, pod_uid: str, node: str, spec_hash: str, image_digest: str, compute_class: str, versions: Mapping[str, str]
    ) -> Steps[ClaimOutcome]:
        """Own the log, or find it finished. Raises `EpochStale`, `NoReadableCheckpoint`, `LogNotUnderstood`, `LogOfAnotherJob`."""
        yield from self._read_to_end()
        foreign = foreign_claim(self.log, spec_hash)
        if foreign:
            raise LogOfAnotherJob(
                f"{slot_key(foreign.slot)} is the claim of a job with another model, data, method or training; "
                "give this job a prefix of its own, or restore the record from the bucket's versions"
            )
        for attempt in count():
            if self.log.final:
                return ClaimOutcome(self.log.final)
            if self.log.max_epoch >= self.me.epoch:
                raise EpochStale(self.me.epoch, self.log.max_epoch)
            own = Claim(
                slot=len(self.log),
                epoch=self.me.epoch,
                writer=self.me.token,
                written_at=self._stamp(),
                pod_uid=pod_uid,
                node=node,
                spec_hash=spec_hash,
                image_digest=image_digest,
                compute_class=compute_class,
                versions=dict(versions),
            )
            result: PutResult = yield Put(slot_key(own.slot), encode(own))
            found = yield from self._after_put(own, result)
            step = interpret_claim_slot(found, own)
            if found is None:
                yield Backoff(attempt, refusal(result))
                continue
            self.log.add(found)
            if self.log.doubtful:
                yield from self._read_older()
            if step is ClaimStep.OWNED:
                self._still_own()
                hit("T2")
                return ClaimOutcome(None)
            if step is ClaimStep.STALE and not self.log.final and not isinstance(found, Damaged):
                raise EpochStale(self.me.epoch, found.epoch)
        raise AssertionError("unreachable")

    def resume(self, accept: Callable[[Commit, Files], None]) -> Steps[Restored | None]:
        """Find the newest COMMIT that passes every check, record it as the parent. None: there is no COMMIT, start at step 0.

        Raises `NoReadableCheckpoint` if there are COMMITs, or may have been, and none passes; `Fenced` if the log has a newer owner.
        """
        restored = yield from self._restore(resume_candidates(self.log), accept, [])
        if restored is None and not may_start_over(self.log):
            raise NoReadableCheckpoint(
                "no COMMIT of the log can be resumed from, but there was one, or a damaged record may have been one: "
                f"slots {[d.slot for d in self.log.damaged_since_resume()]}; restore them from the bucket's versions, or start a new job"
            )
        yield from self._go_on_from(restored)
        return restored

    def rollback(self, accept: Callable[[Commit, Files], None], why: str) -> Steps[Restored]:
        """Go back to a COMMIT before the head, for example because training diverged. Raises `NoReadableCheckpoint` if there is none."""
        candidates = resume_candidates(self.log)
        rejected = [Rejected(slot=commit.slot, why=why) for commit in candidates[:1]]
        restored = yield from self._restore(candidates[1:], accept, rejected)
        if restored is None:
            raise NoReadableCheckpoint(
                "there is no older commit to roll back to; lower the learning rate or check the data, then start a new job"
            )
        yield from self._go_on_from(restored)
        return restored

    def load(self, commit: Commit) -> Steps[Files]:
        """Verified files of one COMMIT. Raises `NoReadableCheckpoint` naming what is wrong."""
        loaded = yield from load_files(commit)
        if isinstance(loaded, str):
            raise NoReadableCheckpoint(f"the commit in slot {commit.slot} cannot be read: {loaded}")
        return loaded

    # --- commit ---------------------------------------------------------------------------------------------------------

    def upload(self, files: Files, step: int) -> Steps[Uploaded]:
        """Store the data of one save under new names. Nothing is visible of it yet. Raises `Fenced` early if the log has a newer owner."""
        yield from self._catch_up()
        return (yield from store_files(files, self.me, step, self._token(), self._part_bytes))

    def seal(self, uploaded: Uploaded, facts: Facts) -> Steps[Commit]:
        """Make an upload the newest state of the run. Returns only if its COMMIT is in the log and effective.

        Raises `Fenced`, or `LogBlocked` if a record in the way cannot be read.
        """

        def own(slot: int) -> Commit:
            return Commit(
                slot=slot,
                epoch=self.me.epoch,
                writer=self.me.token,
                written_at=self._stamp(),
                save=uploaded.save,
                step=facts.step,
                samples_seen=facts.samples_seen,
                reason=facts.reason,
                pinned=facts.pinned,
                pins=pins(self.log),
                files=uploaded.files,
                digests=uploaded.digests,
                loss=facts.loss,
                eval_loss=facts.eval_loss,
                timings=dict(facts.timings),
                origin=facts.origin,
            )

        commit = yield from self._append(own)
        hit("T7")
        return commit

    def retain(self, keep_last: int) -> Steps[int]:
        """Delete data that nobody can resume from any more; the number of deleted objects. Stops quietly at the first refusal.

        Call it only after an own COMMIT was acknowledged.
        """
        if not knows_kept(self.log, keep_last):
            yield from self._read_older()
            self._still_own()
        keys = yield from list_keys("data/", "")
        deleted = 0
        for key in deletable(self.log, self.me, keys, keep_last):
            result: DeleteResult = yield Delete(key)
            if not isinstance(result, Deleted):
                break
            deleted += 1
            hit("T8")
        return deleted

    # --- reading the log ------------------------------------------------------------------------------------------------

    def _read_to_end(self) -> Steps[None]:
        self.log = yield from read_to_end(self._min_slot, self._window)

    def _read_older(self) -> Steps[None]:
        self.log = yield from read_older(self.log)

    def _still_own(self) -> None:
        """Read whole, the log may show another owner only if records that once could be read no longer can, or the reverse."""
        if self.log.owner != self.me:
            raise LogBlocked(
                "records of the log changed after they were read, it now has another owner; a new attempt will claim again",
                reason="LogRecordUnreadable",
            )

    def _catch_up(self) -> Steps[None]:
        """Read what others, or late PUTs of our own, have added. Raises `Fenced` if the log has a newer owner."""
        while (found := (yield from look(len(self.log)))) is not None:
            self._take(found, None)

    # --- writing the log ------------------------------------------------------------------------------------------------

    def _append(self, make: Callable[[int], Own]) -> Steps[Own]:
        """Put a record into the first free slot, as the owner."""
        for attempt in count():
            own = make(len(self.log))
            result: PutResult = yield Put(slot_key(own.slot), encode(own))
            if isinstance(own, Commit):
                hit("T6")
            found = yield from self._after_put(own, result)
            if found is None:
                yield Backoff(attempt, refusal(result))
            elif self._take(found, own) is WriteStep.WRITTEN:
                return own
        raise AssertionError("unreachable")

    def _after_put(self, own: Claim | Resume | Commit, result: PutResult) -> Steps[Entry | None]:
        """What the slot holds now. Every response is checked, a 200 too: a probe cannot prove that the store is atomic."""
        return (yield from look(own.slot))

    def _take(self, found: Entry, own: Commit | Resume | None) -> WriteStep:
        """Take in the record of the next slot, met on the way. Raises if it ends our ownership."""
        step = interpret_slot(found, self.me, own)
        if isinstance(found, Damaged) or step is WriteStep.UNREADABLE:
            raise LogBlocked(
                f"the record in {slot_key(found.slot)} cannot be read and may be another attempt's claim; a new attempt will step over it",
                reason="LogRecordUnreadable",
            )
        effective = self.log.add(found)
        if step is WriteStep.FENCED or (step is WriteStep.WRITTEN and not effective):
            raise Fenced(max(found.epoch, self.log.max_epoch), found.slot)
        if step is WriteStep.UNCLAIMED:
            raise LogBlocked(
                f"epoch {found.epoch} claimed in {slot_key(found.slot)}, so it could not read the claim of epoch {self.me.epoch} before it",
                reason="ClaimUnreadable",
            )
        return step

    # --- restoring ------------------------------------------------------------------------------------------------------

    def _restore(
        self, candidates: tuple[Commit, ...], accept: Callable[[Commit, Files], None], rejected: list[Rejected]
    ) -> Steps[Restored | None]:
        """The first candidate that can be read and that the caller accepts; None if there are no candidates.

        If all fail and the log was not read whole, older ones are looked for.
        """
        tried = False
        while True:
            for commit in candidates:
                tried = True
                loaded = yield from load_files(commit)
                if not isinstance(loaded, str):
                    try:
                        accept(commit, loaded)
                        over = passed_over(self.log, commit.slot)
                        return Restored(commit, loaded, tuple(sorted((*rejected, *over), key=lambda r: -r.slot)))
                    except Unacceptable as error:
                        loaded = f"does not fit: {error}"
                rejected.append(Rejected(slot=commit.slot, why=loaded))
            base = self.log.base
            if base == 0:
                break
            yield from self._read_older()
            self._still_own()
            candidates = tuple(commit for commit in resume_candidates(self.log) if commit.slot < base)
        if not tried:
            return None
        # Somebody newer may have swept the data away under us: then this is no verdict on the job.
        yield from self._catch_up()
        details = "; ".join(f"slot {r.slot}: {r.why}" for r in rejected)
        raise NoReadableCheckpoint(
            f"no commit of the log can be used ({details}); restore the objects from the bucket's versions, or start a new job"
        )

    def _go_on_from(self, restored: Restored | None) -> Steps[None]:
        """Record the parent. A parent that is not the newest COMMIT is committed again at once, under our own protection."""
        parent = restored.commit if restored else None
        rejected = restored.rejected if restored else ()
        recommit = parent is not None and needs_recommit(self.log, parent)

        def own(slot: int) -> Resume:
            return Resume(
                slot=slot,
                epoch=self.me.epoch,
                writer=self.me.token,
                written_at=self._stamp(),
                parent=parent.slot if parent else None,
                rejected=rejected,
            )

        yield from self._append(own)
        hit("T10")
        if restored and parent and recommit:
            uploaded = yield from self.upload(restored.files, parent.step)
            yield from self.seal(
                uploaded,
                Facts(parent.step, parent.samples_seen, "recommit", pinned=parent.pinned, loss=parent.loss, eval_loss=parent.eval_loss),
            )
