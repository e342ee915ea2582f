"""Several writers of one job, interleaved at every store request, and the invariants that must hold after every one.

The writers run the product's own steps (`protocol.Protocol`); only the store, the scheduler and the judge are of this file. The
judge reads the store's content with a second, naive implementation of the rules.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from spottune_contract.layout import parse_slot_key, slot_key
from spottune_contract.records import Claim, Commit, Resume, UnreadableRecord, decode
from spottune_trainer.checkpoint.errors import CheckpointError, NoReadableCheckpoint, StorageUnavailable
from spottune_trainer.checkpoint.lineage import Writer
from spottune_trainer.checkpoint.protocol import Facts, Protocol, Restored
from spottune_trainer.checkpoint.reading import WINDOW
from spottune_trainer.checkpoint.store import Backoff, Request, Together
from spottune_trainer.checkpoint.transfer import Files
from tests.simulation.memory_store import Faults, MemoryStore

KEEP_LAST = 2
TOTAL_STEPS = 30
PATIENCE = 6
"""Back-offs of one request before a writer sees its deadline pass."""
Record = Claim | Resume | Commit


class Violation(AssertionError):
    """An invariant does not hold."""


def state_at(step: int) -> dict[str, bytes]:
    """The one right state after `step` steps, in two files of which one has several parts."""
    return {"adapter.safetensors": b"weights of step %d" % step, "cursor.json": b"%d" % step}


# --- judge ------------------------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What the store's content says, read naively."""

    effective: list[Record] = field(default_factory=list)
    void: list[Record] = field(default_factory=list)
    lineage: list[Commit] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    length: int = 0


@functools.lru_cache(maxsize=20_000)
def _decoded(slot: int, body: bytes) -> Record | None:
    try:
        return decode(body, slot)
    except UnreadableRecord:
        return None


def judge(store: MemoryStore) -> Verdict:
    """Read the log as it is."""
    result = Verdict()
    owner = (0, "")
    lines: dict[int, list[Commit]] = {}
    before: list[list[Commit]] = []
    line: list[Commit] = []
    while slot_key(result.length) in store.objects:
        slot = result.length
        result.length += 1
        before.append(line)
        record = _decoded(slot, store.objects[slot_key(slot)])
        if record is None:
            result.damaged.append(slot)
            continue
        who = (record.epoch, record.writer)
        if record.epoch > owner[0] and (isinstance(record, Claim) or result.damaged):
            owner = who
        elif isinstance(record, Claim) or who != owner:
            result.void.append(record)
            continue
        result.effective.append(record)
        if isinstance(record, Resume):
            line = [] if record.parent is None else lines.get(record.parent, before[record.parent])
        elif isinstance(record, Commit):
            line = lines[slot] = [*line, record]
    result.lineage = line
    return result


def intact(store: MemoryStore, commit: Commit) -> bool:
    return all(file.key in store.objects and file.key not in store.corrupted for file in commit.files)


# --- writers ----------------------------------------------------------------------------------------------------------------


@dataclass
class Actor:
    """One process: a generator, and the requests of its current step that are still open."""

    name: str
    protocol: Protocol
    steps: Generator[Request, Any, str]
    open: list[tuple[int, Any]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    together: bool = False
    started: bool = False
    paused_until: int = 0
    ended: str = ""


@dataclass
class Options:
    """How wild a schedule is."""

    protocol: Callable[..., Protocol] = Protocol
    faults: Callable[[random.Random], Faults] = lambda chance: Faults()
    turns: int = 260
    corruption: float = 0.6
    """Probability that a run has one damaged object."""
    missing: float = 0.3
    """Share of damaged data objects that are not there at all any more."""
    claims_only: bool = False
    """The damaged object is a CLAIM, shortly after it was written: the worst place and moment."""
    stale: float = 0.05
    """Share of processes that are started with an old epoch."""
    spawn: float = 0.04
    crash: float = 0.006
    pause: float = 0.03
    rollback: float = 0.05
    window: int = WINDOW
    """A log of twice as many records is read back from its end; a schedule writes some dozens."""


class World:
    """One run of one seed."""

    def __init__(self, chance: random.Random, options: Options) -> None:
        self.chance = chance
        self.options = options
        self.store = MemoryStore(self.chance, options.faults(self.chance))
        self.actors: list[Actor] = []
        self._tokens = 0
        self.epoch = 0
        self.turn = 0
        self.heard = 0
        """Slots that the operator knows of."""
        self.acknowledged: list[Commit] = []
        self.resumes = 0
        self.fenced = 0
        self.corrupt_at = self.chance.randrange(options.turns) if self.chance.random() < options.corruption else -1
        self.rolling_back: Protocol | None = None
        self.resume_damaged = False
        """The one damage hit a RESUME: a reader that saw it whole goes back for a reason that the judge can no longer read."""
        self.before = Verdict()
        self.before_resumable: int | None = None
        self._log_bytes: dict[str, bytes] = {}

    def token(self) -> str:
        # Numbered, because a search for the simplest schedule makes all random bits zero.
        self._tokens += 1
        return f"{self.chance.getrandbits(48):012x}{self._tokens:04x}"

    def spawn(self, epoch: int) -> Actor:
        writer = Writer(epoch, self.token())
        protocol = self.options.protocol(
            writer, min_slot=self.heard, token=self.token, stamp=lambda: "", part_bytes=10, window=self.options.window
        )
        actor = Actor(f"e{epoch}-{writer.token[:4]}", protocol, self._life(protocol))
        self.actors.append(actor)
        return actor

    def _life(self, protocol: Protocol) -> Generator[Request, Any, str]:
        """A trainer: claim, resume, then train and commit until it is done."""
        outcome = yield from protocol.claim(pod_uid="", node="", spec_hash="", image_digest="", compute_class="", versions={})
        self.heard = max(self.heard, len(protocol.log))
        if outcome.final:
            return "finished"
        restored = yield from protocol.resume(_check_state)
        self.resumes += 1
        step = restored.commit.step if restored else 0
        while True:
            step = min(TOTAL_STEPS, step + self.chance.randint(1, 4))
            reason = "final" if step == TOTAL_STEPS else "interval"
            try:
                uploaded = yield from protocol.upload(state_at(step), step)
                commit = yield from protocol.seal(uploaded, Facts(step, step, reason))
            except StorageUnavailable:
                # As the saver does: training goes on and the next save tries again.
                continue
            self._acknowledge(commit)
            if reason == "final":
                return "done"
            yield from protocol.retain(KEEP_LAST)
            if self.chance.random() < self.options.rollback and protocol.log.parents[commit.slot] is not None:
                self.rolling_back = protocol
                back: Restored = yield from protocol.rollback(_check_state, "diverged")
                step = back.commit.step

    def _acknowledge(self, commit: Commit) -> None:
        now = judge(self.store)
        if commit not in now.effective and slot_key(commit.slot) not in self.store.corrupted:
            raise Violation(f"an acknowledged COMMIT does not count: {commit.slot} of epoch {commit.epoch}")
        self.acknowledged.append(commit)

    # --- scheduling -----------------------------------------------------------------------------------------------------

    def run(self) -> World:
        """Faults, then quiet: a last attempt must finish the run."""
        self.epoch = 1
        self.spawn(1)
        for turn in range(self.options.turns):
            self.turn = turn
            self._disturb()
            live = [a for a in self.actors if not a.ended and a.paused_until <= self.turn]
            if live:
                self._step(self.chance.choice(live))
            self._check()
        self._finish()
        return self

    def _disturb(self) -> None:
        chance, options = self.chance, self.options
        if chance.random() < 0.1:
            self.store.settle()
        live = [a for a in self.actors if not a.ended]
        if len(live) < 3 and (chance.random() < options.spawn or not live):
            kind = chance.random()
            if kind < options.stale:
                self.spawn(chance.randint(1, self.epoch))
            elif kind < options.stale + 0.15:
                self.spawn(self.epoch)
            else:
                self.epoch += 1
                self.spawn(self.epoch)
        for actor in live:
            if chance.random() < options.pause:
                actor.paused_until = self.turn + chance.choice((5, 20, 80))
            elif chance.random() < options.crash:
                actor.ended = "crashed"
        if self.turn == self.corrupt_at:
            self._corrupt()

    def _corrupt(self) -> None:
        keys = sorted(key for key in self.store.objects if key.startswith(("log/", "data/")))
        log = [key for key in keys if key.startswith("log/")]
        if self.options.claims_only:
            victims = log[-1:] if self.before.effective and isinstance(self.before.effective[-1], Claim) else []
            self.corrupt_at += not victims
        else:
            victims = log[-2:] + keys
        if victims:
            victim = self.chance.choice(victims)
            slot = parse_slot_key(victim)
            self.resume_damaged = slot is not None and isinstance(_decoded(slot, self.store.objects[victim]), Resume)
            self.store.corrupt(victim)
            if slot is None and self.store.happens(self.options.missing):
                del self.store.objects[victim]
            self._remember()

    def _step(self, actor: Actor) -> None:
        """One store request of one writer."""
        try:
            if not actor.open:
                self._advance(actor)
            if actor.open:
                place, request = actor.open.pop(self.chance.randrange(len(actor.open)))
                actor.answers[place] = self.store.execute(request)
        except CheckpointError as error:
            actor.ended = type(error).__name__
            self.heard = max(self.heard, len(actor.protocol.log))
            self.fenced += actor.ended == "Fenced"
            if isinstance(error, NoReadableCheckpoint) and not self.store.corrupted:
                raise Violation(f"nothing was damaged, and yet: {error}") from error
            if (
                isinstance(error, NoReadableCheckpoint)
                and actor.protocol is not self.rolling_back
                and self._resumable(judge(self.store)) is not None
            ):
                raise Violation(f"there is a commit to resume from, and yet: {error}") from error
        except StopIteration as finished:
            actor.ended = finished.value

    def _advance(self, actor: Actor) -> None:
        answer: Any = None
        if actor.started:
            answer = actor.answers if actor.together else (actor.answers or [None])[0]
        actor.started = True
        request = actor.steps.send(answer)
        while isinstance(request, Backoff):
            if request.attempt >= PATIENCE:
                request = actor.steps.throw(StorageUnavailable("the deadline has passed"))
            else:
                # Waiting is one turn in which nothing is asked.
                actor.together, actor.open, actor.answers = False, [], [None]
                return
        actor.together = isinstance(request, Together)
        requests = list(request.requests) if isinstance(request, Together) else [request]
        actor.open, actor.answers = list(enumerate(requests)), [None] * len(requests)

    # --- invariants -----------------------------------------------------------------------------------------------------

    def _log_changed(self) -> bool:
        now = {key: body for key, body in self.store.objects.items() if key.startswith("log/")}
        changed = now != self._log_bytes
        self._log_bytes = now
        return changed

    def _remember(self) -> None:
        """Damage is no fault of the writers: compare from here on."""
        self._log_changed()
        self.before = judge(self.store)
        self.before_resumable = self._resumable(self.before)

    def _resumable(self, verdict: Verdict) -> int | None:
        return next((c.slot for c in reversed(verdict.lineage) if intact(self.store, c)), None)

    def _check(self) -> None:
        now = judge(self.store) if self._log_changed() else self.before
        self._check_kept(now)
        resumable = self._resumable(now)
        if now is not self.before:
            self._check_log(now)
            self._check_going_back(now, resumable)
        elif resumable != self.before_resumable:
            raise Violation(f"I6/I7: data of the commit in slot {self.before_resumable} went away")
        self.before, self.before_resumable = now, resumable

    def _check_log(self, now: Verdict) -> None:
        highest = 0
        for record in now.effective:
            if record.epoch < highest:
                raise Violation(f"I1: slot {record.slot} of epoch {record.epoch} counts after a CLAIM of epoch {highest}")
            highest = max(highest, record.epoch)
        slots = {record.slot for record in now.effective}
        for commit in self.acknowledged:
            if commit.slot not in slots and slot_key(commit.slot) not in self.store.corrupted:
                raise Violation(f"an acknowledged COMMIT no longer counts: slot {commit.slot}")
        if not now.damaged:
            for older, newer in zip(now.lineage, now.lineage[1:], strict=False):
                again = newer.reason == "recommit" and newer.step == older.step
                if newer.step <= older.step and not again:
                    raise Violation(f"I5: step {newer.step} in slot {newer.slot} follows step {older.step}")
            finals = [r.slot for r in now.effective if isinstance(r, Commit) and r.reason == "final"]
            if finals and now.effective[-1].slot > finals[0]:
                raise Violation(f"slot {now.effective[-1].slot} counts after the FINAL in slot {finals[0]}")

    def _check_going_back(self, now: Verdict, resumable: int | None) -> None:
        if self.before_resumable is None or (resumable is not None and resumable >= self.before_resumable):
            return
        newest = now.effective[-1]
        if isinstance(newest, Resume) and self.resume_damaged:
            return
        if isinstance(newest, Resume) and self.before_resumable in {rejected.slot for rejected in newest.rejected}:
            return
        raise Violation(f"I6: a reader resumed from slot {self.before_resumable}, now from {resumable}, and no RESUME says why")

    def _check_kept(self, now: Verdict) -> None:
        if self.store.corrupted or any(isinstance(r, Resume) and r.rejected for r in now.effective):
            return
        for commit in now.lineage[-KEEP_LAST:]:
            if not intact(self.store, commit):
                raise Violation(f"I7: data of the commit in slot {commit.slot} are gone, it is one of the newest {KEEP_LAST}")

    # --- the end --------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """No more faults: what is left alone must be resumable by a fresh attempt, and old writers must not disturb it."""
        self.store.settle(everything=True)
        self._check()
        self.store.faults = Faults(0, 0, 0, 0, 0, self.store.faults.lies)
        self.epoch += 1
        expected = self._resumable(self.before)
        readable = expected is not None or (not self.before.lineage and not self.before.damaged)
        last = self.spawn(self.epoch)
        while not last.ended:
            self._step(last)
            self._check()
            zombies = [a for a in self.actors if not a.ended and a is not last]
            if zombies:
                self._step(self.chance.choice(zombies))
                self._check()
        if last.ended not in ("done", "finished") and (readable or last.ended != NoReadableCheckpoint.__name__):
            raise Violation(f"after all faults a fresh attempt ended with {last.ended}, slot {expected} could be resumed from")


def _check_state(commit: Commit, files: Files) -> None:
    if {name: bytes(content) for name, content in files.items()} != state_at(commit.step):
        raise Violation(f"the files of slot {commit.slot} are not the state of step {commit.step}")


def run_schedule(seed: int, options: Options | None = None) -> World:
    """One schedule. Raises `Violation` with the seed in front."""
    try:
        return World(random.Random(seed), options or Options()).run()
    except Violation as violation:
        raise Violation(f"seed {seed}: {violation}") from violation


__all__ = ["KEEP_LAST", "Options", "Violation", "World", "run_schedule"]
