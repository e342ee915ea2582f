"""Is what the clients of a checkpoint log were told explained by one order of their operations? Judged by the history alone.

`Recording` notes when a client's operation begins and what it was told at its end. `explain` then asks whether all operations can
be put into one sequence in which each takes effect at one moment between its beginning and its end, every answer is the one that
`apply`, the log as a single machine would behave, gives there, and an operation without an answer takes effect at any later time
or never.

It is as strong as the search of Wing and Gong that Porcupine uses, because it tries every order. It walks through the history and
keeps the set of all pairs (state of the machine, operations that have taken effect and not yet answered). Before an answer it
closes the set under "one more open operation takes effect now"; then it keeps the pairs in which the answered operation has. An
operation that takes effect between two answers can do so just before the second: nothing is observed in between. So the set holds
every state that any legal order can lead to, and it is empty exactly if there is no legal order. Two things keep it small and
lose nothing: equal pairs are one, and an operation that will never be answered is taken only where it changes the state, because
leaving it open allows everything that taking it without effect allows.

Nothing of the store is looked at: slots, records and their order are not known here.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from spottune_contract.layout import parse_data_key
from spottune_contract.records import Commit
from spottune_trainer.checkpoint.errors import EpochStale, Fenced
from spottune_trainer.checkpoint.lineage import resume_candidates
from spottune_trainer.checkpoint.protocol import ClaimOutcome, Facts, Protocol, Restored
from spottune_trainer.checkpoint.transfer import Steps, Uploaded
from tests.simulation.checkpoint_world import Options, World


class NotLinearizable(AssertionError):
    """No order of the operations explains what the clients were told."""


class Saved(NamedTuple):
    """A commit as its client knows it."""

    save: str
    step: int
    final: bool = False


# --- the machine ------------------------------------------------------------------------------------------------------------


class Machine(NamedTuple):
    """The log as one machine that does one thing at a time: a register with a fence in front of it."""

    epoch: int = 0
    writer: str = ""
    lineage: tuple[Saved, ...] = ()

    @property
    def final(self) -> bool:
        return bool(self.lineage) and self.lineage[-1].final


@dataclass(frozen=True)
class Operation:
    """What a client asks for. `saved` for a commit; `told` only if it was answered."""

    kind: str
    """claim, resume, rollback, commit, look"""
    epoch: int
    writer: str
    saved: Saved | None = None


@dataclass(frozen=True)
class Answer:
    """What a client was told."""

    word: str
    """owned, stale, final, resumed, acknowledged, fenced"""
    parent: str | None = None
    """Save that a resume or rollback goes on from; None for the start."""
    rejected: frozenset[str] = frozenset()
    """Saves that it stepped over, and said so."""


def apply(machine: Machine, operation: Operation, damaged: frozenset[str], told: Answer | None) -> tuple[Machine, Answer]:
    """State and answer if the operation takes effect now. `told` is only asked for what the client chose: what to step over."""
    if operation.kind == "claim":
        if machine.final:
            return machine, Answer("final")
        if operation.epoch <= machine.epoch:
            return machine, Answer("stale")
        return Machine(operation.epoch, operation.writer, machine.lineage), Answer("owned")
    if (machine.epoch, machine.writer) != (operation.epoch, operation.writer):
        return machine, Answer("fenced")
    lineage = machine.lineage
    if operation.kind == "look":
        return machine, Answer("owned")
    if operation.kind == "commit":
        saved = operation.saved
        assert saved is not None
        if lineage and (machine.final or saved.step < lineage[-1].step):
            return machine, Answer("impossible")
        return machine._replace(lineage=(*lineage, saved)), Answer("acknowledged")
    over = {lineage[-1].save} if operation.kind == "rollback" and lineage else set()
    while lineage and (lineage[-1].save in over or lineage[-1].save in (told.rejected & damaged if told else damaged)):
        over.add(lineage[-1].save)
        lineage = lineage[:-1]
    if not lineage and over:
        return machine, Answer("impossible")
    parent = lineage[-1].save if lineage else None
    return machine._replace(lineage=lineage), Answer("resumed", parent, frozenset(over))


# --- the history ------------------------------------------------------------------------------------------------------------


@dataclass
class History:
    """Beginnings and answers in the order in which they happened. `turn` is for messages."""

    operations: list[Operation] = field(default_factory=list)
    answers: dict[int, Answer] = field(default_factory=dict)
    events: list[tuple[str, int]] = field(default_factory=list)
    """begin or answer, and which operation; damage, and an index into `damaged`."""
    damaged: list[str] = field(default_factory=list)

    def begin(self, operation: Operation) -> int:
        self.operations.append(operation)
        self.events.append(("begin", len(self.operations) - 1))
        return len(self.operations) - 1

    def answer(self, number: int, answer: Answer) -> None:
        assert number not in self.answers
        self.answers[number] = answer
        self.events.append(("answer", number))

    def damage(self, save: str) -> None:
        """The data of a commit are damaged from here on: a resume may step over it if it says so."""
        self.damaged.append(save)
        self.events.append(("damage", len(self.damaged) - 1))


Pair = tuple[Machine, frozenset[int]]
"""A state, and the operations that have taken effect and not yet answered."""


def explain(history: History) -> int:
    """The number of states the log may be in at the end. Raises `NotLinearizable` with the first answer that nothing explains."""
    reachable: set[Pair] = {(Machine(), frozenset())}
    open_: set[int] = set()
    damaged: frozenset[str] = frozenset()
    for kind, number in history.events:
        if kind == "begin":
            open_.add(number)
        elif kind == "damage":
            damaged |= {history.damaged[number]}
        else:
            before = _closure(reachable, open_, history, damaged)
            reachable = {(machine, taken - {number}) for machine, taken in before if number in taken}
            open_.remove(number)
            if not reachable:
                raise NotLinearizable(_story(history, number, before))
    return len({machine for machine, _ in reachable})


def _closure(pairs: Iterable[Pair], open_: set[int], history: History, damaged: frozenset[str]) -> set[Pair]:
    """All that can be reached if any open operations take effect now, in any order."""
    known = set(pairs)
    todo = list(known)
    while todo:
        for pair in _successors(todo.pop(), open_, history, damaged):
            if pair not in known:
                known.add(pair)
                todo.append(pair)
    return known


def _successors(pair: Pair, open_: set[int], history: History, damaged: frozenset[str]) -> Iterator[Pair]:
    machine, taken = pair
    for number in open_ - taken:
        told = history.answers.get(number)
        after, answer = apply(machine, history.operations[number], damaged, told)
        if (told is None and after != machine) or answer == told:
            yield after, taken | {number}


def _story(history: History, number: int, before: set[Pair]) -> str:
    states = {
        f"epoch {machine.epoch} of {machine.writer[:4]}, head {machine.lineage[-1] if machine.lineage else 'none'}" for machine, _ in before
    }
    return (
        f"{history.operations[number]} was told {history.answers[number]}, but the log can only have been at: {'; '.join(sorted(states))}"
    )


# --- recording --------------------------------------------------------------------------------------------------------------


class Recording(Protocol):
    """A client of the log that notes what it asks for and what it is told. Put in front of the `Protocol` under test."""

    history: History

    def _begin(self, kind: str, saved: Saved | None = None) -> int:
        return self.history.begin(Operation(kind, self.me.epoch, self.me.token, saved))

    def claim(self, **facts: Any) -> Steps[ClaimOutcome]:
        number = self._begin("claim")
        try:
            outcome = yield from super().claim(**facts)
        except EpochStale:
            self.history.answer(number, Answer("stale"))
            raise
        self.history.answer(number, Answer("final" if outcome.final else "owned"))
        return outcome

    def resume(self, accept: Any) -> Steps[Restored | None]:
        return (yield from self._going_on(self._begin("resume"), super().resume(accept)))

    def rollback(self, accept: Any, why: str) -> Steps[Restored]:
        restored = yield from self._going_on(self._begin("rollback"), super().rollback(accept, why))
        assert restored is not None
        return restored

    def _going_on(self, number: int, steps: Steps[Any]) -> Steps[Any]:
        # What a client rejects it knows by slot; by which save that was it has read in the log itself.
        saves = {commit.slot: commit.save for commit in resume_candidates(self.log)}
        restored: Restored | None = yield from self._fenced(number, steps)
        saves |= {entry.slot: entry.save for entry in self.log.entries if isinstance(entry, Commit)}
        rejected = frozenset(saves[r.slot] for r in restored.rejected if r.slot in saves) if restored else frozenset()
        self.history.answer(number, Answer("resumed", restored.commit.save if restored else None, rejected))
        return restored

    def upload(self, files: Any, step: int) -> Steps[Uploaded]:
        number = self._begin("look")
        uploaded = yield from self._fenced(number, super().upload(files, step))
        self.history.answer(number, Answer("owned"))
        return uploaded

    def seal(self, uploaded: Uploaded, facts: Facts) -> Steps[Any]:
        number = self._begin("commit", Saved(uploaded.save, facts.step, facts.reason == "final"))
        commit = yield from self._fenced(number, super().seal(uploaded, facts))
        self.history.answer(number, Answer("acknowledged"))
        return commit

    def _fenced(self, number: int, steps: Steps[Any]) -> Steps[Any]:
        """Any other error says nothing about what has happened: the operation stays without an answer."""
        try:
            return (yield from steps)
        except Fenced:
            # A recommit that is fenced says nothing about the RESUME before it, which was written.
            if all(later.writer != self.me.token for later in self.history.operations[number + 1 :]):
                self.history.answer(number, Answer("fenced"))
            raise


class RecordedWorld(World):
    """A schedule whose clients are recorded."""

    def __init__(self, chance: random.Random, options: Options) -> None:
        self.history = History()
        super().__init__(chance, options)
        base: Any = options.protocol
        self._client = type(f"Recorded{base.__name__}", (Recording, base), {"history": self.history})

    def spawn(self, epoch: int) -> Any:
        original = self.options.protocol
        self.options.protocol = self._client
        try:
            return super().spawn(epoch)
        finally:
            self.options.protocol = original

    def _corrupt(self) -> None:
        before = set(self.store.corrupted)
        super()._corrupt()
        for key in self.store.corrupted - before:
            parsed = parse_data_key(key)
            if parsed:
                self.history.damage(parsed.save)

    @property
    def explainable(self) -> bool:
        """Damage of a log record can make the log forget: that is judged elsewhere."""
        return all(parse_data_key(key) for key in self.store.corrupted)


__all__ = ["Answer", "History", "Machine", "NotLinearizable", "Operation", "RecordedWorld", "Recording", "Saved", "explain"]
