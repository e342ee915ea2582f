"""Which sample comes when: a pure function of seed and position, so that a resume needs no replay.

Every pass over the data is its own permutation, computed index by index by a Feistel network with cycle walking (Black and
Rogaway, "Ciphers with Arbitrary Finite Domains", 2002): the network permutes [0, 4^k) with 4^k >= size, and results beyond the
data are sent through again. On average that takes fewer than four rounds through the network.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

_ROUNDS = 6


@dataclass(frozen=True)
class Order:
    """The endless stream of sample indices: pass 0, pass 1, … over `size` samples."""

    size: int
    seed: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError("an order needs at least one sample")

    @cached_property
    def _half_bits(self) -> int:
        return max(1, ((self.size - 1).bit_length() + 1) // 2)

    def index(self, position: int) -> int:
        """Index of the sample at `position` (0-based) of the stream."""
        epoch, value = divmod(position, self.size)
        key = hashlib.blake2b(f"{self.seed}/{epoch}".encode(), digest_size=32).digest()
        value = self._permute(key, value)
        while value >= self.size:
            value = self._permute(key, value)
        return value

    def _permute(self, key: bytes, value: int) -> int:
        bits = self._half_bits
        mask = (1 << bits) - 1
        left, right = value >> bits, value & mask
        for turn in range(_ROUNDS):
            mixed = hashlib.blake2b(b"%d/%d" % (turn, right), digest_size=8, key=key).digest()
            left, right = right, left ^ (int.from_bytes(mixed, "little") & mask)
        return (left << bits) | right

    def batch(self, step: int, batch_size: int, end: int | None) -> tuple[int, ...]:
        """Sample indices of optimizer step `step` (0-based); `end` limits the stream (a last batch may be smaller)."""
        first = step * batch_size
        last = first + batch_size if end is None else min(first + batch_size, end)
        return tuple(self.index(position) for position in range(first, last))


def sample_digest(indices: tuple[int, ...]) -> bytes:
    """SHA-256 (32 bytes) of the samples of one step, in their order: proof in the history that none was skipped or repeated."""
    return hashlib.sha256(b"".join(index.to_bytes(8, "little") for index in indices)).digest()
