"""Copies of the tensors of a run in host memory: files in flat buffers that are allocated once and used again.

A buffer is used again only when nobody can read it any more. What is handed out is a memoryview of an array made for that one
snapshot; every slice of it, also the one that an abandoned request is still sending, keeps that array alive, and the buffer is
free when the array is gone. So nobody has to give a buffer back, and nobody can forget it.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field

import numpy as np
import torch

from spottune_trainer.arena import Arena
from spottune_trainer.tensorfile import Layout, layout

KEPT_BUFFERS = 2
"""One whose upload is under way, one for the next snapshot."""
_ALIGNMENT = 64


@dataclass(frozen=True)
class Taken:
    """A consistent copy: nothing changes it while anybody holds its views."""

    adapter: memoryview
    optimizer: memoryview
    """Of no tensors before the first step."""
    finite: bool
    """No number of the adapter, as copied, is infinite or NaN."""


@dataclass
class _Buffer:
    storage: torch.Tensor
    weights: torch.Tensor
    moments: torch.Tensor
    """The contents of the two files, uint8; their headers are written once."""
    numbers: list[torch.Tensor]
    """The weights as numbers, one tensor for each type."""
    reader: weakref.ref[np.ndarray] | None = field(default=None)

    @property
    def free(self) -> bool:
        return self.reader is None or self.reader() is None


class Snapshots:
    """Takes snapshots of one run's arena, from one thread."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._adapter_start = -len(arena.adapter.header) % _ALIGNMENT
        end = self._adapter_start + arena.adapter.size + len(arena.optimizer.header)
        self._optimizer_start = end + -end % _ALIGNMENT - len(arena.optimizer.header)
        self._buffers: list[_Buffer] = []
        self._gpu = arena.device if arena.device.type == "cuda" else None

    @property
    def free(self) -> bool:
        """A snapshot can be taken without more memory than two states."""
        return len(self._buffers) < KEPT_BUFFERS or any(buffer.free for buffer in self._buffers)

    @property
    def bytes_held(self) -> int:
        """Of all buffers that are kept."""
        return sum(buffer.storage.numel() for buffer in self._buffers)

    def take(self, *, stepped: bool) -> Taken:
        """Copy the state; the model may change as soon as this returns. With no free buffer a further one is made, and not kept.

        `stepped`: there was a step, so that the optimizer has something to keep.
        """
        arena, buffer = self._arena, self._free_buffer()
        # Made before the copy: from here on the buffer is not free.
        array = buffer.storage.numpy()
        buffer.reader = weakref.ref(array)
        view = array.data
        buffer.weights.copy_(arena.weights, non_blocking=True)
        if stepped:
            buffer.moments.copy_(arena.moments, non_blocking=True)
        if self._gpu is not None:
            torch.cuda.current_stream(self._gpu).synchronize()
        if stepped and arena.steps_apart:
            buffer.moments[arena.step_bytes].copy_(arena.steps)
        # Of the copy, in one pass over memory: what is looked at is what will be committed. NaN passes through both.
        finite = all(math.isfinite(edge.item()) for numbers in buffer.numbers for edge in torch.aminmax(numbers))
        return Taken(
            view[self._adapter_start :][: arena.adapter.size],
            view[self._optimizer_start :][: arena.optimizer.size] if stepped else memoryview(_EMPTY.header),
            finite,
        )

    def _free_buffer(self) -> _Buffer:
        for buffer in self._buffers:
            if buffer.free:
                return buffer
        buffer = self._new_buffer()
        if len(self._buffers) < KEPT_BUFFERS:
            self._buffers.append(buffer)
        return buffer

    def _new_buffer(self) -> _Buffer:
        arena = self._arena
        # Pinned memory is what a GPU can copy to while the CPU enqueues the next copy.
        storage = torch.empty(self._optimizer_start + arena.optimizer.size, dtype=torch.uint8, pin_memory=self._gpu is not None)
        weights = _content(arena.adapter, storage, self._adapter_start)
        moments = _content(arena.optimizer, storage, self._optimizer_start)
        return _Buffer(storage, weights, moments, _numbers(arena.adapter, weights))


_EMPTY = layout({})


def _content(made: Layout, storage: torch.Tensor, start: int) -> torch.Tensor:
    """Write the header of a file; what follows it."""
    body = start + len(made.header)
    storage[start:body].copy_(torch.frombuffer(bytearray(made.header), dtype=torch.uint8))
    return storage[body : start + made.size]


def _numbers(made: Layout, content: torch.Tensor) -> list[torch.Tensor]:
    spans: dict[torch.dtype, list[int]] = {}
    for place in made.places:
        spans.setdefault(place.kind[0], []).extend((place.begin - len(made.header), place.end - len(made.header)))
    return [content[min(at) : max(at)].view(dtype) for dtype, at in spans.items()]
