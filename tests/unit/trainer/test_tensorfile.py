"""The safetensors format: the same bytes are written, and nothing is read that safetensors refuses."""

from __future__ import annotations

import json
import random
import warnings

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from spottune_trainer.tensorfile import layout, parse

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OTHERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def some_tensors(chosen: random.Random, dtypes: tuple[torch.dtype, ...]) -> dict[str, torch.Tensor]:
    names = ("b", "a.weight", "ä\n\"'/\x7f", "layers.10.q", "layers.9.q", "step", "é" * 40)
    shapes = ((), (3,), (2, 5), (0,), (1, 1, 7))
    picked = chosen.sample(names, chosen.randint(0, len(names)))
    return {name: (torch.rand(chosen.choice(shapes)) * 100).to(chosen.choice(dtypes)) for name in picked}


def test_a_layout_is_what_safetensors_writes_for_any_names_shapes_and_float_types() -> None:
    chosen = random.Random(1)
    for _ in range(200):
        tensors = some_tensors(chosen, DTYPES)
        made = layout({name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()})
        storage = torch.zeros(made.size, dtype=torch.uint8)
        storage[: len(made.header)] = torch.frombuffer(bytearray(made.header), dtype=torch.uint8)
        for place in made.places:
            place.view(storage, 0).copy_(tensors[place.name])
        assert storage.numpy().tobytes() == safetensors.torch.save(tensors)


def test_everything_that_safetensors_writes_is_read_back_without_a_warning() -> None:
    chosen = random.Random(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for turn in range(200):
            tensors = some_tensors(chosen, DTYPES + OTHERS)
            data = safetensors.torch.save(tensors, metadata={"format": "pt"} if turn % 2 else None)
            assert same(parse(data), tensors)
            # In the middle of other bytes, wherever that is.
            shifted = memoryview(b"x" * (turn % 9) + data)[turn % 9 :]
            assert same(parse(shifted), tensors)


def test_tensors_are_read_without_a_copy() -> None:
    data = bytearray(safetensors.torch.save({"a": torch.arange(4.0)}))
    tensor = parse(memoryview(data))["a"]
    data[-4:] = data[-8:-4]
    assert tensor.tolist() == [0.0, 1.0, 2.0, 2.0]


def damaged(chosen: random.Random, data: bytes) -> bytes:
    """A file with a few changed, lost or added bytes, mostly where they mean most: in the header."""
    changed = bytearray(data)
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(chosen.randint(1, 3)):
        place = chosen.randrange(header if chosen.random() < 0.8 else max(1, len(changed)))
        match chosen.randrange(5):
            case 0:
                changed[place] ^= 1 << chosen.randrange(8)
            case 1:
                changed[place : place + 1] = chosen.choice((b"0", b"9", b"-1", b"1e1", b'"', b",", b"[", b"}", b"\\", b" ", b"\x00"))
            case 2:
                del changed[place:]
                changed.extend(data[: chosen.randrange(20)])
            case 3:
                changed.extend(bytes(chosen.randrange(9)))
            case _:
                changed = rewritten(chosen, changed, header)
        header = min(header, len(changed)) or 1
        if not changed:
            break
    return bytes(changed)


def rewritten(chosen: random.Random, changed: bytearray, header: int) -> bytearray:
    """The same with another number, type or field, and a header that fits again."""
    try:
        entries = json.loads(bytes(changed[8:header]))
        entry = entries[chosen.choice([n for n in entries if n != "__metadata__"])]
        match chosen.randrange(4):
            case 0:
                entry["data_offsets"][chosen.randrange(2)] += chosen.choice((-8, -4, -1, 1, 4, 8, 2**40, 2**64))
            case 1:
                entry["shape"] = chosen.choice(([], [0], [3], [2, 5], [5, 2], [2**63], [2**32, 2**32], [-1], [True], ["3"], None))
            case 2:
                entry["dtype"] = chosen.choice(("F32", "I32", "F64", "BF16", "U8", "F4", "f32", 4, None))
            case _:
                entries["more"] = dict(entry)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):
        return changed
    text = json.dumps(entries).encode()
    return bytearray(len(text).to_bytes(8, "little") + text + changed[header:])


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    def content(tensors: dict[str, torch.Tensor]) -> dict[str, object]:
        return {n: (t.dtype, tuple(t.shape), t.contiguous().reshape(-1).view(torch.uint8).tolist()) for n, t in tensors.items()}

    return content(ours) == content(theirs)


def test_of_damaged_files_none_is_read_that_safetensors_refuses_and_none_is_read_differently() -> None:
    chosen = random.Random(3)
    accepted = refused = stricter = 0
    for _ in range(2500):
        data = damaged(chosen, safetensors.torch.save(some_tensors(chosen, DTYPES + OTHERS)))
        try:
            theirs = safetensors.torch.load(data)
        except (SafetensorError, ValueError, KeyError, OverflowError, RuntimeError, TypeError):
            theirs = None
        try:
            ours = parse(data)
        except ValueError:
            refused += 1
            stricter += theirs is not None
            continue
        assert theirs is not None, data
        assert same(ours, theirs), data
        accepted += 1
    assert accepted > 60
    assert refused > 1000
    # What only we refuse is what safetensors never writes: unknown fields, something twice.
    assert stricter < 100


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', "twice"),
        (b'{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', "twice"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":1}}', "not described by"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', "neighbours"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', "neighbours"),
        (b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}', "neighbours, its shape or the file"),
        (b'{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', "the number 1.0"),
        (b'{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}', "the number -1"),
        (b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', "surrogates"),
        (b'{"__metadata__":{"a":1}}', "metadata"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "not a JSON object"),
        (b"{}", "1 bytes belong to no tensor"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused_and_says_why(header: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(len(header).to_bytes(8, "little") + header + b"x")
