"""The life of one attempt, in order, and what each way of ending means."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from spottune_contract.env import RunEnv
from spottune_contract.exitcodes import ExitCode
from spottune_contract.failpoint import hit
from spottune_contract.layout import S3Location, left_key, ready_key, tail_key
from spottune_contract.progress import TrainerPhase
from spottune_contract.records import Commit
from spottune_contract.runspec import seconds
from spottune_trainer import compute, exactness
from spottune_trainer.board import Board
from spottune_trainer.checkpoint import (
    TRAINERS,
    CheckpointError,
    CheckpointLog,
    ClaimOutcome,
    Files,
    NoReadableCheckpoint,
    OriginLog,
    Restored,
    Saver,
    open_reader,
    open_store,
)
from spottune_trainer.checkpoint.drive import start_daemon
from spottune_trainer.control import ControlServer, Routes
from spottune_trainer.errors import BadConfig, BadData, Diverged, StorageUnusable, TrainerError, Transient
from spottune_trainer.export import export_final
from spottune_trainer.handover import Relief, await_mark
from spottune_trainer.logs import Log, Tail
from spottune_trainer.metrics import exposition
from spottune_trainer.objects import Objects, SourceMissing, open_objects
from spottune_trainer.preemption import Preemption, StopRequested
from spottune_trainer.preload import preload
from spottune_trainer.sources import Sources, locate
from spottune_trainer.state_files import TRAINER, document, same_place

if TYPE_CHECKING:
    from spottune_trainer.loop import NonFinite, Run
    from spottune_trainer.supervision import Supervision

FINAL_SECONDS = 600.0
"""For this long the FINAL commit is tried before the attempt gives up (the work is then done again from the last commit)."""


_MORE_MEMORY = "not enough memory: lower microBatchSize or dataset.maxLength, or give the pod more"


def out_of_memory(error: BaseException) -> bool:
    """Python, torch on the CPU, torch on the GPU and the operating system each say it in their own way."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


@dataclass(frozen=True)
class Outcome:
    code: ExitCode
    reason: str
    message: str
    output: str = ""


class Attempt:
    """One process, one epoch. `run` never raises."""

    def __init__(self, env: RunEnv, preemption: Preemption, log: Log, tail: Tail, *, writer: str) -> None:
        self.env, self.preemption, self.log, self._tail = env, preemption, log, tail
        self._writer = writer
        self.board = Board(env, writer, clock=time.time, monotonic=time.monotonic)
        self._checkpoints: CheckpointLog | None = None
        self._objects: Callable[[], Objects] = cache(self._open_objects)
        self._import: tuple[OriginLog, Commit] | None = None
        """Of another job, to be started from: what `resumeFrom` names, unless there is an own commit."""

    def run(self) -> Outcome:
        """Live through it and say how it ended."""
        try:
            return self._live()
        except StopRequested:
            return self._stopped_before_work()
        except (TrainerError, CheckpointError) as error:
            return Outcome(error.exit_code, error.reason, str(error))
        except Exception as error:  # the last resort: another attempt may fare better, and the budget bounds the tries
            if out_of_memory(error):
                return Outcome(ExitCode.TRANSIENT, "OutOfMemory", f"{_MORE_MEMORY} ({type(error).__name__}: {str(error)[:500]})")
            self.log.exception("unexpected error")
            return Outcome(ExitCode.TRANSIENT, "UnexpectedError", f"{type(error).__name__}: {str(error)[:1500]}")

    def upload_tail(self) -> None:
        """Keep the end of the log beside the checkpoints, for a pod that vanishes. Failures are only logged."""
        try:
            self._objects().put(f"{self.env.location}/{tail_key(self.env.epoch, self._writer)}", self._tail.text(), once=True)
        except Exception as error:  # the tail is a convenience: it must never end a training
            self.log.warning("tail not uploaded", error=f"{type(error).__name__}: {str(error)[:300]}")

    def leave(self) -> None:
        """Tell a successor that may be waiting that this attempt writes no more. Failures are only logged: it waits a little longer."""
        if self.env.handover == "Warm":
            self._mark(left_key(self.env.epoch))

    def _mark(self, key: str) -> None:
        try:
            self._objects().put(f"{self.env.location}/{key}", key.rpartition("-")[2].encode(), once=True)
        except Exception as error:  # nothing depends on it
            self.log.warning("no mark set", key=key, error=f"{type(error).__name__}: {str(error)[:300]}")

    def _marked(self, key: str) -> bool:
        try:
            self._objects().read(f"{self.env.location}/{key}", limit=64)
        except SourceMissing:
            return False
        except CheckpointError as error:  # whoever needs the store itself has patience with it, and says what is wrong with it
            self.log.warning("a mark cannot be looked for", key=key, error=str(error)[:300])
            return False
        return True

    # --- the stages ---------------------------------------------------------------------------------------------------------

    def _live(self) -> Outcome:
        env, spec = self.env, self.env.run_spec
        server = ControlServer(
            env.port,
            Routes(progress=self._progress, metrics=exposition(self.board.progress), hung=self.board.hung, notify=self.preemption.notify),
        )
        server.start()
        self.log.info("http server up", port=server.port)
        self.board.update(total_steps=spec.training.max_steps or 0)
        if env.world_size != 1:
            raise BadConfig("OneWorkerOnly", f"this trainer runs with one worker, not {env.world_size}: set capacity to one worker")
        imported = preload(spec.method)
        own_class = compute.compute_class(
            threads=spec.training.cpu_threads,
            world_size=env.world_size,
            micro_batch_size=spec.training.micro_batch_size,
            image_digest=env.image_digest,
        )
        run = None
        if env.predecessor:
            with self.preemption.leaving_at_once():
                run = self._loaded(imported, own_class)
                self._await_predecessor()
        claimed = self._claim(own_class)
        if claimed.final is not None:
            return self._finish(self._commits.load(claimed.final), claimed.final, already=True)
        with self.preemption.leaving_at_once():
            self._find_origin()
            run = run or self._loaded(imported, own_class)
        resumed = self._restore(run)
        if resumed is None:
            self.board.update(exactness=exactness.started(own_class))
        else:
            self.board.update(resumed_from_step=resumed.step)
        with self.preemption.leaving_at_once():
            """A stop that came while restoring: nothing was done since."""
        return self._train(run)

    @property
    def _commits(self) -> CheckpointLog:
        assert self._checkpoints is not None
        return self._checkpoints

    def _claim(self, own_class: str) -> ClaimOutcome:
        env, checkpoint = self.env, self.env.run_spec.checkpoint
        self.board.phase(TrainerPhase.CLAIMING)
        store = open_store(env.location, endpoint=checkpoint.endpoint, region=checkpoint.region, credentials_dir=env.credentials_dir)
        log = CheckpointLog(store, epoch=env.epoch, writer=self._writer, min_slot=env.min_slot, keep_last=checkpoint.keep_last)
        # Also of a claim that is refused the operator must hear what is in the log.
        self.board.follow(log.view)
        with self.preemption.leaving_at_once():
            log.probe()
        outcome = log.claim(
            pod_uid=env.pod_uid,
            node=env.node,
            spec_hash=env.run_spec.spec_hash(),
            image_digest=env.image_digest,
            compute_class=own_class,
            versions=compute.versions(),
        )
        self._checkpoints = log
        self.board.update(claimed_at=time.time())
        self.log.info("claimed", final=outcome.final is not None, compute_class=own_class, view=log.view().model_dump(mode="json"))
        return outcome

    def _find_origin(self) -> None:
        """Before the model is loaded: whether what `resumeFrom` names is there. Once there is an own commit nobody needs it."""
        wanted, checkpoint = self.env.run_spec.resume_from, self.env.run_spec.checkpoint
        if wanted is None or self._commits.view().last_commit is not None:
            return
        location = S3Location.parse(wanted.location)
        if location == self.env.location:
            raise BadConfig("ResumeFromItself", f"resumeFrom.location {location} is this job's own log: create a new job with another one")
        store = open_reader(
            location,
            endpoint=checkpoint.endpoint,
            region=checkpoint.region,
            credentials_dir=self.env.credentials_dir,
            remedies=TRAINERS,
        )
        origin = OriginLog(store, str(location))
        self._import = origin, origin.find(wanted.step)

    def _await_predecessor(self) -> None:
        env, started = self.env, time.monotonic()
        self.board.phase(TrainerPhase.CLAIMING)
        self.log.info(
            "waiting for the predecessor", predecessor=env.predecessor, seconds_at_most=round(env.predecessor_until - time.time(), 1)
        )
        self._mark(ready_key(env.epoch))
        left = await_mark(lambda: self._marked(left_key(env.predecessor)), env.predecessor_until)
        self.log.info("waited for the predecessor", left=left, seconds=_since(started))

    def _loaded(self, imported: Callable[[], None], own_class: str) -> Run:
        """Model and data, at step 0."""
        sources = self._sources()
        imported()
        return self._build(sources, own_class)

    def _sources(self) -> Sources:
        self.board.phase(TrainerPhase.LOADING)
        spec = self.env.run_spec
        started = time.monotonic()
        if spec.output is not None:
            self._require_bucket(spec.output.destination)
        sources = locate(spec.model, spec.dataset, scratch=Path(self.env.scratch_dir), objects=self._objects)
        self.log.info("sources found", rows=len(sources.rows.rows), seconds=_since(started))
        return sources

    def _require_bucket(self, destination: str) -> None:
        """A missing output bucket is said now, not after the training. Other troubles may be ones of reading only."""
        try:
            self._objects().size(destination)
        except CheckpointError as error:
            if error.reason == "BucketMissing":
                raise StorageUnusable(error.reason, f"output.destination {error}") from None

    def _build(self, sources: Sources, own_class: str) -> Run:
        from spottune_trainer.build import build_run

        started = time.monotonic()
        run, notes = build_run(self.env.run_spec, sources, own_class)
        for note in notes:
            self.board.warn(note)
        self.board.update(total_steps=run.total_steps, loaded_at=time.time())
        self.log.info(
            "model loaded", seconds=_since(started), samples=len(run.samples), total_steps=run.total_steps, device=str(run.device)
        )
        return run

    def _restore(self, run: Run) -> Commit | None:
        """Go on from the newest commit; None for none. Its files are let go of: a run would hold them to its end."""
        self.board.phase(TrainerPhase.RESTORING)
        started = time.monotonic()
        restored = self._commits.resume(lambda commit, files: self._accept(run, commit, files))
        if restored is not None:
            for rejected in restored.rejected:
                self.board.warn(f"CommitRejected: slot {rejected.slot}: {rejected.why}")
            self._load(run, restored)
        commit = restored.commit if restored else self._imported(run)
        self.log.info("restored", step=run.step, seconds=_since(started))
        return commit

    def _imported(self, run: Run) -> Commit | None:
        """The state of another job, if `resumeFrom` names one, committed at once as one's own: from now on that job may go."""
        if self._import is None:
            assert self.env.run_spec.resume_from is None, "without a commit of its own a job starts where it was told to"
            return None
        from spottune_trainer.adoption import adopted

        source, theirs = self._import
        self._import, origin = None, source.origin(theirs)
        run.load(adopted(theirs, source.load(theirs), run))
        self._proven(run, theirs, log=origin.location)
        commit = self._commits.commit(
            run.save(),
            step=run.step,
            samples_seen=run.samples_seen,
            reason="imported",
            loss=run.loss,
            eval_loss=run.eval_loss,
            origin=origin,
        )
        self.log.info("imported", step=run.step, slot=commit.slot, origin=origin.model_dump(mode="json"))
        return commit

    def _accept(self, run: Run, commit: Commit, files: Files) -> None:
        """Raises `Unacceptable` for a state that does not fit; other data or another model end the attempt instead."""
        differing = run.identity.differing(document(files, TRAINER))
        if {"dataset_digest", "eval_digest"} & set(differing):
            raise BadData("DatasetChanged", "the data are not those of the first attempt: restore the file, or start a new job")
        if "model_fingerprint" in differing:
            raise BadConfig("ModelChanged", "the base model is not that of the first attempt: restore it, or start a new job")
        run.check(files)
        same_place(commit, files)

    def _load(self, run: Run, restored: Restored) -> None:
        run.load(restored.files)
        self._proven(run, restored.commit)

    def _proven(self, run: Run, commit: Commit, *, log: str = "") -> None:
        """Say how exact this is, and go on only with what was committed: the live state is encoded anew and compared, not trusted."""
        self.board.update(step=run.step, samples_seen=run.samples_seen, loss=run.loss, eval_loss=run.eval_loss)
        started = time.monotonic()
        proof = exactness.Proof(commit.slot, commit.step, commit.digests, run.live_digests(), log)
        view = exactness.resumed(run.compute_class, run.makers, proof)
        self.board.update(exactness=view)
        self.log.info("verified", slot=commit.slot, exact=view.exact, reason=view.reason, seconds=_since(started))
        if proof.differing:
            raise Transient(
                view.reason,
                f"{view.message}; the next attempt restores it again. If it goes on: use the trainer image of the first attempt, or another machine",
            )

    def _train(self, run: Run) -> Outcome:
        from spottune_trainer.loop import Ending, NonFinite, train
        from spottune_trainer.supervision import Policy, Supervision

        checkpoint = self.env.run_spec.checkpoint
        saver = Saver(
            self._commits, on_commit=lambda commit: self._committed(supervision, commit), on_failure=lambda error: supervision.failed(error)
        )
        supervision = Supervision(
            saver=saver,
            preemption=self.preemption,
            board=self.board,
            log=self.log,
            policy=Policy(seconds(checkpoint.interval), checkpoint.every_steps),
            grace_seconds=self.env.grace_seconds,
            relief=Relief(lambda: self._marked(ready_key(self.env.epoch + 1))) if self.env.handover == "Warm" else None,
        )
        supervision.restored(run.step)
        rolled_back = False
        while True:
            try:
                if train(run, supervision) is Ending.STOPPED:
                    return self._stop(run, supervision)
                return self._final(run, supervision, saver)
            except NonFinite as error:
                if rolled_back:
                    raise Diverged(
                        "NonFinite", f"{error}, again after a rollback: lower training.learningRate, or check the data of that step"
                    ) from None
                rolled_back = True
                self._roll_back(run, supervision, saver, error)

    def _roll_back(self, run: Run, supervision: Supervision, saver: Saver, error: NonFinite) -> None:
        """Go back once: a flipped bit goes away by that, a bad recipe does not."""
        self.log.warning("not finite", step=error.step, what=error.what)
        self.board.phase(TrainerPhase.RESTORING)
        saver.flush(time.monotonic() + FINAL_SECONDS)
        try:
            restored = self._commits.rollback(lambda commit, files: self._accept(run, commit, files), why=str(error))
        except NoReadableCheckpoint:
            raise Diverged(
                "NonFinite", f"{error}, and there is no earlier commit to go back to: lower training.learningRate, or check the data"
            ) from None
        self._load(run, restored)
        supervision.restored(run.step)
        self.board.warn(f"RolledBack: {error}; went back to step {run.step}")

    # --- the ends -----------------------------------------------------------------------------------------------------------

    def _final(self, run: Run, supervision: Supervision, saver: Saver) -> Outcome:
        self.board.phase(TrainerPhase.SAVING)
        supervision.submit(run, "final", urgent=True)
        final = saver.flush(time.monotonic() + FINAL_SECONDS)
        assert final is not None, "flush returned without the FINAL that was submitted"
        hit("T12")
        return self._finish(run.save(), final, already=False)

    def _finish(self, files: Files, final: Commit, *, already: bool) -> Outcome:
        """FINAL is durable: nothing can be lost any more, so a stop does not interrupt the export."""
        self.board.phase(TrainerPhase.EXPORTING)
        self.board.update(step=final.step, samples_seen=final.samples_seen, loss=final.loss, eval_loss=final.eval_loss)
        self.board.update(total_steps=final.step)
        output = self.env.run_spec.output
        place = ""
        if output is not None:
            hit("T11")
            place = export_final(
                files, final, output.destination, self._objects(), location=self.env.location, again=already, tell=self._export_waits
            )
            self.log.info("exported", destination=place)
        self.board.phase(TrainerPhase.DONE)
        if already:
            return Outcome(
                ExitCode.DONE, "AlreadyFinal", f"the run was finished by epoch {final.epoch}; the adapter was exported again", place
            )
        return Outcome(ExitCode.DONE, "Completed", f"all {final.step} steps are done", place)

    def _export_waits(self, trouble: str) -> None:
        self.board.warn(f"ExportWaits: {trouble}")
        self.log.warning("the export waits", trouble=trouble)

    def _stop(self, run: Run, supervision: Supervision) -> Outcome:
        notice = self.preemption.stop
        assert notice is not None
        self._show_notice()
        commit = supervision.stop(run, notice)
        if commit is None and run.step == 0:
            return self._stopped_before_work()
        took = time.monotonic() - notice.at
        return Outcome(ExitCode.YIELDED, "Yielded", f"{notice.source}: step {run.step} is durable {took:.1f} s after the request")

    def _show_notice(self) -> None:
        """Latencies count from the first that asked for the end: the signal comes after the notice that it follows from."""
        first = self.preemption.first_notice()
        if first is not None:
            self.board.update(notice_at=first.at_wall, notice_source=first.source)

    def _stopped_before_work(self) -> Outcome:
        """Stopped before anything new was done. What an earlier attempt has committed is all there is to keep."""
        self._show_notice()
        last = self._checkpoints.view().last_commit if self._checkpoints else None
        if last is not None:
            self.board.update(step=last.step, loss=last.loss)
        if last is None:
            return Outcome(ExitCode.TRANSIENT, "StoppedBeforeFirstCommit", "asked to stop before there was anything to commit")
        return Outcome(ExitCode.YIELDED, "Yielded", f"asked to stop before anything new was done; step {last.step} is committed")

    def _committed(self, supervision: Supervision, commit: Commit) -> None:
        supervision.committed(commit)
        if commit.reason == "interval":  # nobody waits for such a one; all others are followed by the end
            start_daemon(self.upload_tail)

    def _progress(self) -> str:
        return self.board.progress().model_dump_json()

    def _open_objects(self) -> Objects:
        checkpoint = self.env.run_spec.checkpoint
        return open_objects(endpoint=checkpoint.endpoint, region=checkpoint.region, credentials_dir=self.env.credentials_dir)


def _since(started: float) -> float:
    return math.floor((time.monotonic() - started) * 1000) / 1000
