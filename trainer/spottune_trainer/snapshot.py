"""Copies of the tensors of a run in host memory: files in flat buffers that are allocated once and used again.

A buffer is used again only when nobody can read it any more. What is handed out is a memoryview of an array made for that one
snapshot; every slice of it, also the one that an abandoned request is still sending, keeps that array alive, and the buffer is
free when the array is gone. So nobody has to give a buffer back, and nobody can forget it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from spottune_trainer.tensorfile import Kind, Layout, layout

KEPT_BUFFERS = 2
"""One whose upload is under way, one for the next snapshot."""
_ALIGNMENT = 64
MOMENTS = ("exp_avg", "exp_avg_sq")


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
    adapter: list[torch.Tensor]
    moments: list[torch.Tensor]
    """Views into the storage in the order of the files."""
    flat: list[torch.Tensor]
    """All of the adapter, one tensor for each type."""
    reader: weakref.ref[np.ndarray] | None = field(default=None)

    @property
    def free(self) -> bool:
        return self.reader is None or self.reader() is None


class Snapshots:
    """Takes snapshots of one run's parameters and AdamW state, from one thread."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        self._parameters = parameters
        self._adapter = layout({name: (p.dtype, tuple(p.shape)) for name, p in parameters.items()})
        self._optimizer = layout(moments(parameters))
        self._adapter_start = -len(self._adapter.header) % _ALIGNMENT
        end = self._adapter_start + self._adapter.size + len(self._optimizer.header)
        self._optimizer_start = end + -end % _ALIGNMENT - len(self._optimizer.header)
        self._buffers: list[_Buffer] = []
        self._device = next((p.device for p in parameters.values() if p.device.type == "cuda"), None)

    @property
    def free(self) -> bool:
        """A snapshot can be taken without more memory than two states."""
        return len(self._buffers) < KEPT_BUFFERS or any(buffer.free for buffer in self._buffers)

    @property
    def bytes_held(self) -> int:
        """Of all buffers that are kept."""
        return sum(buffer.storage.numel() for buffer in self._buffers)

    def take(self, optimizer: torch.optim.Optimizer) -> Taken:
        """Copy the state; the model may change as soon as this returns. With no free buffer a further one is made, and not kept."""
        buffer = self._free_buffer()
        # Made before the copy: from here on the buffer is not free.
        array = buffer.storage.numpy()
        buffer.reader = weakref.ref(array)
        view = array.data
        with torch.no_grad():
            for place, target in zip(self._adapter.places, buffer.adapter, strict=True):
                target.copy_(self._parameters[place.name], non_blocking=True)
            if optimizer.state:
                for source, target in zip(self._states(optimizer), buffer.moments, strict=True):
                    target.copy_(source, non_blocking=True)
            if self._device is not None:
                torch.cuda.current_stream(self._device).synchronize()
            # Of the copy, in one pass over memory: what is looked at is what will be committed. NaN passes through both.
            finite = all(math.isfinite(edge.item()) for flat in buffer.flat for edge in torch.aminmax(flat))
        return Taken(
            view[self._adapter_start :][: self._adapter.size],
            view[self._optimizer_start :][: self._optimizer.size] if optimizer.state else memoryview(_EMPTY.header),
            finite,
        )

    def _states(self, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
        """AdamW's tensors in the order of the file."""
        of = {name: optimizer.state[parameter] for name, parameter in self._parameters.items()}
        split = (place.name.rsplit("/", 1) for place in self._optimizer.places)
        return [of[name][key] for name, key in split]

    def _free_buffer(self) -> _Buffer:
        for buffer in self._buffers:
            if buffer.free:
                return buffer
        buffer = self._new_buffer()
        if len(self._buffers) < KEPT_BUFFERS:
            self._buffers.append(buffer)
        return buffer

    def _new_buffer(self) -> _Buffer:
        # Pinned memory is what a GPU can copy to while the CPU enqueues the next copy.
        storage = torch.empty(self._optimizer_start + self._optimizer.size, dtype=torch.uint8, pin_memory=self._device is not None)
        buffer = _Buffer(
            storage,
            _place(self._adapter, storage, self._adapter_start),
            _place(self._optimizer, storage, self._optimizer_start),
            _flat(self._adapter, storage, self._adapter_start),
        )
        return buffer


def moments(parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, Kind]:
    """Names, types and shapes of AdamW's state after a step."""
    kinds: dict[str, Kind] = {}
    for name, p in parameters.items():
        kinds[f"{name}/step"] = (torch.float32, ())
        kinds |= {f"{name}/{key}": (p.dtype, tuple(p.shape)) for key in MOMENTS}
    return kinds


_EMPTY = layout({})


def _place(made: Layout, storage: torch.Tensor, start: int) -> list[torch.Tensor]:
    """Write the header; views of the tensors behind it."""
    storage[start : start + len(made.header)].copy_(torch.frombuffer(bytearray(made.header), dtype=torch.uint8))
    return [place.view(storage, start) for place in made.places]


def _flat(made: Layout, storage: torch.Tensor, start: int) -> list[torch.Tensor]:
    spans: dict[torch.dtype, list[int]] = {}
    for place in made.places:
        spans.setdefault(place.kind[0], []).extend((place.begin, place.end))
    return [storage[start + min(at) : start + max(at)].view(dtype) for dtype, at in spans.items()]
