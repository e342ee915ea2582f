"""The whole state of a run as files, by one mechanism: what is not here does not survive.

safetensors and JSON only, names sorted, no clock: two equal states have equal bytes. Nothing is unpickled on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch

from spottune_contract.records import canonical
from spottune_trainer import rng
from spottune_trainer.arena import Arena, adapter_kinds, optimizer_kinds
from spottune_trainer.checkpoint import Files, Unacceptable
from spottune_trainer.exactness import Makers
from spottune_trainer.history import History
from spottune_trainer.snapshot import Taken
from spottune_trainer.state_files import ADAPTER, CURSOR, HISTORY, NAMES, OPTIMIZER, RNG, TRAINER, document
from spottune_trainer.tensorfile import Kind, parse

FORMAT = 3
CLASSES = "classes"
"""What of `trainer.json` says by which compute classes the state was made. It grows with them, and is no part of the identity."""
_NOT_COMPARED = frozenset({"adapter_config", CLASSES})
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Identity:
    """What must be the same in every attempt, or a resume would be another run."""

    spec_hash: str
    dataset_digest: str
    eval_digest: str
    model_fingerprint: str
    total_steps: int
    adapter_config: dict[str, Any]

    def document(self) -> dict[str, Any]:
        return {"format": FORMAT, **vars(self)}

    def differing(self, stated: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of what differs in a saved document. The adapter's description may: another PEFT release words it differently."""
        own = self.document()
        return tuple(sorted(n for n in (stated.keys() | own.keys()) - _NOT_COMPARED if stated.get(n) != own.get(n)))


@dataclass(frozen=True)
class Cursor:
    """Where the run is: all else about data order and schedule follows from it."""

    step: int
    samples_seen: int


@dataclass(frozen=True)
class Decoded:
    """A checked state, not yet put into a model. Its tensors look into the files it was read from: never write to them."""

    cursor: Cursor
    adapter: Tensors
    optimizer: Tensors
    history: History
    generators: rng.Generators
    makers: Makers


def encode(
    *,
    identity: Identity,
    cursor: Cursor,
    taken: Taken,
    history: History,
    generators: rng.Generators,
    makers: Makers,
) -> dict[str, bytes | memoryview]:
    """A snapshot and the small rest as files. They share nothing with the model: training may go on at once."""
    return {
        ADAPTER: taken.adapter,
        OPTIMIZER: taken.optimizer,
        HISTORY: safetensors.torch.save(history.tensors()),
        RNG: safetensors.torch.save(generators),
        CURSOR: canonical(vars(cursor)),
        TRAINER: canonical({**identity.document(), CLASSES: makers.document()}),
    }


def decode(files: Files, *, identity: Identity, parameters: Mapping[str, torch.nn.Parameter]) -> Decoded:
    """Read and check a state against the run it should continue. Raises `Unacceptable` saying what does not fit."""
    missing = sorted(set(NAMES) - set(files))
    if missing:
        raise Unacceptable(f"the state lacks {', '.join(missing)}")
    cursor = _cursor(files)
    stated = document(files, TRAINER)
    if differing := identity.differing(stated):
        raise Unacceptable(f"the state is of another run: {', '.join(differing)} differ")
    adapter = _tensors(files[ADAPTER], ADAPTER)
    _fits(ADAPTER, adapter, adapter_kinds(parameters))
    optimizer = _tensors(files[OPTIMIZER], OPTIMIZER)
    _fits(OPTIMIZER, optimizer, optimizer_kinds(parameters) if cursor.step else {})
    # torch casts the bytes of its generator to a structure and crashes if they are not aligned; a copy is.
    generators = {name: tensor.clone() for name, tensor in _tensors(files[RNG], RNG).items()}
    here = rng.capture()
    # A state from a machine with GPUs may be continued on one without: their generators are then left out.
    _fits(RNG, {n: t for n, t in generators.items() if n in here or not n.startswith("torch.cuda.")}, _kinds(here, generators))
    try:
        history = History.from_tensors(_tensors(files[HISTORY], HISTORY), cursor.step)
        makers = Makers.parse(stated.get(CLASSES))
    except ValueError as error:
        raise Unacceptable(str(error)) from None
    return Decoded(cursor, adapter, optimizer, history, generators, makers)


def apply(decoded: Decoded, arena: Arena) -> None:
    """Put adapter, optimizer moments and random number generators in place. Same bits as were saved."""
    arena.fill(decoded.adapter, decoded.optimizer)
    rng.restore(decoded.generators)


def _kinds(here: Tensors, saved: Tensors) -> dict[str, Kind]:
    """What the generators must look like; Python's Gauss cache is there or not, GPUs only where both sides have them."""
    return {
        name: (t.dtype, tuple(saved[name].shape) if name == "python.gauss" and name in saved else tuple(t.shape))
        for name, t in here.items()
        if name in saved or not name.startswith("torch.cuda.")
    }


def _fits(file: str, tensors: Tensors, expected: Mapping[str, Kind]) -> None:
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())
        raise Unacceptable(f"{file}: {len(odd)} tensors are missing or too many, the first is {odd[0]}")
    for name, tensor in tensors.items():
        if (tensor.dtype, tuple(tensor.shape)) != expected[name]:
            dtype, shape = expected[name]
            raise Unacceptable(f"{file}: {name} is {tensor.dtype} {tuple(tensor.shape)}, the model has {dtype} {shape}")


def _tensors(data: bytes | memoryview, file: str) -> Tensors:
    try:
        return parse(data)
    except ValueError as error:
        raise Unacceptable(f"{file} is not safetensors: {str(error)[:200]}") from None


def _cursor(files: Files) -> Cursor:
    value = document(files, CURSOR)
    if value.keys() != {"step", "samples_seen"} or not all(type(v) is int and v >= 0 for v in value.values()):
        raise Unacceptable(f"{CURSOR} does not hold step and samples_seen")
    return Cursor(**value)
