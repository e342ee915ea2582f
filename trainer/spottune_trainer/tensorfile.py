"""The safetensors format without copies: a header that is made once for tensors that never change shape, and views into bytes.

`Layout` places tensors exactly as `safetensors.torch.save` does; `parse` accepts nothing that `safetensors.torch.load` refuses.
The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

MAX_HEADER_BYTES = 16 * 1024 * 1024
Kind = tuple[torch.dtype, tuple[int, ...]]
"""Type and shape of a tensor."""
_WRITTEN = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
"""In the order in which safetensors ranks them; higher ranks come first in a file."""
_READ = {name: dtype for dtype, name in _WRITTEN.items()} | {
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Place:
    """Where the bytes of a tensor are, counted from the start of the file."""

    name: str
    kind: Kind
    begin: int
    end: int

    def view(self, storage: torch.Tensor, start: int) -> torch.Tensor:
        """The tensor in a uint8 tensor that holds the file from byte `start` on."""
        dtype, shape = self.kind
        return storage[start + self.begin : start + self.end].view(dtype).view(shape)


@dataclass(frozen=True)
class Layout:
    """A file of tensors of known types and shapes, all but their content."""

    header: bytes
    """Everything before the content: length, JSON, padding. A multiple of 8 bytes."""
    places: tuple[Place, ...]
    """In the order of the content."""

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.places[-1].end if self.places else len(self.header)


def layout(kinds: Mapping[str, Kind]) -> Layout:
    """Place tensors as safetensors does: by falling rank of the type, then by name. Raises `KeyError` for a type other than a float."""
    ranks = list(_WRITTEN)
    ordered = sorted(kinds.items(), key=lambda item: (-ranks.index(item[1][0]), item[0]))
    described: dict[str, Any] = {}
    spans: list[tuple[str, Kind, int, int]] = []
    at = 0
    for name, (dtype, shape) in ordered:
        end = at + math.prod(shape) * dtype.itemsize
        described[name] = {"dtype": _WRITTEN[dtype], "shape": list(shape), "data_offsets": [at, end]}
        spans.append((name, (dtype, shape), at, end))
        at = end
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, tuple(Place(name, kind, len(header) + begin, len(header) + end) for name, kind, begin, end in spans))


def parse(data: bytes | memoryview) -> dict[str, torch.Tensor]:
    """Tensors that look into `data`, which must not change; never write to them. Raises `ValueError` for what is not such a file.

    Stricter than safetensors in what it never writes: names and fields that occur twice or are not known, types that no state has.
    """
    whole = memoryview(data).cast("B")
    length = int.from_bytes(whole[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes")
    if len(whole) < 8 + length:
        raise ValueError(f"{len(whole)} bytes are less than its header says")
    found = _kinds(bytes(whole[8 : 8 + length]))
    body = whole[8 + length :]
    flat = _bytes(body)
    tensors, at = {}, 0
    for name, (dtype, shape, begin, end) in sorted(found.items(), key=lambda item: item[1][2:]):
        if begin != at or end > len(body) or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} is at {begin} to {end}, which does not fit its neighbours, its shape or the file")
        piece = flat[begin:end]
        if piece.data_ptr() % dtype.itemsize or begin % dtype.itemsize:
            piece = piece.clone()
        try:
            tensors[name] = piece.view(dtype).view(shape)
        except (RuntimeError, OverflowError):
            raise ValueError(f"{name} has an impossible shape") from None
        at = end
    if at != len(body):
        raise ValueError(f"{len(body) - at} bytes belong to no tensor")
    return tensors


def _bytes(body: memoryview) -> torch.Tensor:
    if not body:
        return torch.empty(0, dtype=torch.uint8)
    with warnings.catch_warnings():
        # Of memory that must not be written to, torch warns; nobody writes to it.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(body, dtype=torch.uint8)


def _kinds(header: bytes) -> dict[str, tuple[torch.dtype, tuple[int, ...], int, int]]:
    try:
        entries = json.loads(header.decode(), object_pairs_hook=_once, parse_int=_natural, parse_float=_natural, parse_constant=_natural)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    if not isinstance(entries, dict):
        raise ValueError("its header is not a JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not texts")
    for text in (*metadata, *metadata.values(), *entries):
        text.encode()  # half a surrogate pair is no text: UnicodeEncodeError is a ValueError
    return {name: _entry(name, value) for name, value in entries.items()}


def _entry(name: str, value: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} is not described by dtype, shape and data_offsets")
    shape, offsets = value["shape"], value["data_offsets"]
    numbers = isinstance(shape, list) and isinstance(offsets, list) and all(type(n) is int and n <= _LARGEST for n in shape + offsets)
    if not numbers or len(offsets) != 2 or not isinstance(value["dtype"], str) or value["dtype"] not in _READ:
        raise ValueError(f"{name} has a dtype, a shape or offsets that no state has")
    return _READ[value["dtype"]], tuple(shape), offsets[0], offsets[1]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("its header names something twice")
    return made


def _natural(text: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ValueError(f"its header has the number {text[:30]}")
    return int(text)
