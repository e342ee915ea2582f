"""A job with a past, in memory: real records and real states of a small run, written by the protocol's own steps. Only for tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from spottune_contract.layout import data_key, slot_key
from spottune_contract.records import Commit, DataFile, encode
from spottune_trainer import rng, state
from spottune_trainer.arena import Arena
from spottune_trainer.checkpoint.errors import StorageUnavailable
from spottune_trainer.checkpoint.lineage import Writer
from spottune_trainer.checkpoint.protocol import Facts, Protocol
from spottune_trainer.checkpoint.store import Backoff, Request, Together
from spottune_trainer.checkpoint.transfer import Files
from spottune_trainer.exactness import Makers
from spottune_trainer.history import History
from spottune_trainer.snapshot import Snapshots
from spottune_trainer.state_files import same_place
from tests.simulation.memory_store import Faults, MemoryStore

T = TypeVar("T")
Objects = dict[str, bytes]

PART_BYTES = 6000
"""So that some files have several parts."""
SAMPLES_PER_STEP = 8
PATIENCE = 20


def quiet_store(objects: Mapping[str, bytes] | None = None) -> MemoryStore:
    """A store without faults that holds copies of `objects`."""
    store = MemoryStore(random.Random(0), Faults(0, 0, 0, 0, 0, 0))
    store.objects = dict(objects or {})
    return store


def drive(store: MemoryStore, steps: Generator[Request, Any, T]) -> T:
    """Run steps to their end without waiting anywhere."""
    answer: Any = None
    waited = 0
    try:
        while True:
            request = steps.send(answer)
            if isinstance(request, Backoff):
                waited += 1
                answer = None if waited <= PATIENCE else steps.throw(StorageUnavailable("the deadline has passed"))
            elif isinstance(request, Together):
                answer = [store.execute(single) for single in request.requests]
            else:
                answer = store.execute(request)
    except StopIteration as finished:
        result: T = finished.value
        return result


class TinyRun:
    """Two adapter matrices under AdamW, with history and generators: what a trainer saves, in 20 KB."""

    def __init__(self, seed: int, spec_hash: str) -> None:
        self._chance = torch.Generator().manual_seed(seed)
        self.parameters = {
            name: torch.nn.Parameter(torch.randn(shape, generator=self._chance))
            for name, shape in (("layer.lora_A", (4, 16)), ("layer.lora_B", (16, 4)))
        }
        self._optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.01)
        self._snapshots = Snapshots(Arena(self.parameters, self._optimizer))
        self._history = History()
        self._generators = rng.capture()
        self.identity = state.Identity(spec_hash, "d" * 64, "", "m" * 64, 100, {"r": 4})
        self.step = 0

    def train(self, steps: int) -> None:
        for _ in range(steps):
            for parameter in self.parameters.values():
                parameter.grad = torch.randn(parameter.shape, generator=self._chance)
            self._optimizer.step()
            self.step += 1
            self._history.loss.append(1 / self.step)
            self._history.learning_rate.append(0.01)
            self._history.grad_norm.append(1.0)
            self._history.targets.append(64)
            self._history.samples.append(bytes([self.step % 256]) * 32)
            self._generators["torch.cpu"][-8:] = self.step % 256

    def save(self) -> dict[str, bytes]:
        files = state.encode(
            identity=self.identity,
            cursor=state.Cursor(self.step, self.step * SAMPLES_PER_STEP),
            taken=self._snapshots.take(stepped=self.step > 0),
            history=self._history,
            generators=self._generators,
            makers=Makers().joined_by("cpu", 0),
        )
        return {name: bytes(content) for name, content in files.items()}

    def accept(self, commit: Commit, files: Files) -> None:
        """What the trainer asks of a state before it takes it."""
        state.decode(files, identity=self.identity, parameters=self.parameters)
        same_place(commit, files)


@dataclass
class SavedJob:
    """One job's objects, and which state each of its COMMITs stands for."""

    run: TinyRun
    chance: random.Random
    store: MemoryStore = field(default_factory=quiet_store)
    states: dict[int, dict[str, bytes]] = field(default_factory=dict)
    """Slot of every acknowledged COMMIT → its files."""
    epoch: int = 0

    def token(self) -> str:
        return f"{self.chance.getrandbits(64):016x}"

    def process(self, epoch: int, *, min_slot: int = 0) -> Protocol:
        return Protocol(Writer(epoch, self.token()), min_slot=min_slot, token=self.token, stamp=lambda: "", part_bytes=PART_BYTES)

    def attempt(self) -> Protocol:
        """The next attempt: claims and resumes."""
        self.epoch += 1
        protocol = self.process(self.epoch)
        drive(self.store, claiming(protocol, self.run))
        restored = drive(self.store, protocol.resume(self.run.accept))
        if restored is not None:
            self._note_recommit(protocol, restored.commit, restored.files)
        return protocol

    def commit(self, protocol: Protocol, steps: int = 2) -> Commit:
        self.run.train(steps)
        files = self.run.save()
        uploaded = drive(self.store, protocol.upload(files, self.run.step))
        commit = drive(self.store, protocol.seal(uploaded, Facts(self.run.step, self.run.step * SAMPLES_PER_STEP, "interval")))
        self.states[commit.slot] = files
        return commit

    def roll_back(self, protocol: Protocol) -> None:
        restored = drive(self.store, protocol.rollback(self.run.accept, "diverged"))
        self._note_recommit(protocol, restored.commit, restored.files)

    def leave_void(self, writer: Writer) -> None:
        """A COMMIT of a fenced writer that landed late: it counts for nothing."""
        slot = sum(key.startswith("log/") for key in self.store.objects)
        save, body = self.token(), b"a fenced writer's adapter"
        sha256 = "0" * 64
        key = data_key(writer.epoch, writer.token, self.run.step + 1, save, "fenced.bin")
        record = Commit(
            slot=slot,
            epoch=writer.epoch,
            writer=writer.token,
            save=save,
            step=self.run.step + 1,
            samples_seen=1,
            reason="interval",
            files=(DataFile(name="fenced.bin", key=key, size=len(body), sha256=sha256),),
            digests={"fenced.bin": sha256},
        )
        self.store.objects[key] = body
        self.store.objects[slot_key(slot)] = encode(record)

    def _note_recommit(self, protocol: Protocol, parent: Commit, files: Files) -> None:
        head = protocol.log.head
        assert head is not None
        if head != parent.slot:
            self.states[head] = {name: bytes(content) for name, content in files.items()}


def claiming(protocol: Protocol, run: TinyRun) -> Any:
    return protocol.claim(
        pod_uid="uid", node="node", spec_hash=run.identity.spec_hash, image_digest="", compute_class="cpu", versions={"torch": "2"}
    )


def long_life(seed: int, spec_hash: str = "a" * 64) -> SavedJob:
    """Three attempts with seven commits, a late record of a fenced writer and a rollback; the fourth died before it committed."""
    job = SavedJob(TinyRun(seed, spec_hash), random.Random(seed))
    first = job.attempt()
    job.commit(first)
    job.commit(first)
    second = job.attempt()
    job.commit(second)
    job.commit(second)
    job.leave_void(first.me)
    third = job.attempt()
    job.commit(third)
    job.roll_back(third)
    job.commit(third)
    job.attempt()
    return job


def short_life(seed: int, spec_hash: str = "a" * 64) -> SavedJob:
    """One commit, resumed from once: there is nothing else to fall back to."""
    job = SavedJob(TinyRun(seed, spec_hash), random.Random(seed))
    job.commit(job.attempt())
    job.attempt()
    return job


LIVES: dict[str, Callable[..., SavedJob]] = {"long": long_life, "short": short_life}
