"""How a state is cut into objects, and what its digests are."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spottune_contract.layout import MAX_OBJECT_BYTES
from spottune_contract.records import file_digest
from spottune_trainer.checkpoint.errors import NoReadableCheckpoint
from spottune_trainer.checkpoint.log import CheckpointLog
from spottune_trainer.checkpoint.transfer import part_size
from tests.unit.checkpoint.stores import CLAIM, QuietStore

MIB = 1 << 20


def owner(store: QuietStore, part_bytes: int = MAX_OBJECT_BYTES) -> CheckpointLog:
    log = CheckpointLog(store, epoch=1)
    log._protocol._part_bytes = part_bytes
    log.claim(**CLAIM)  # type: ignore[arg-type]
    log.resume(lambda commit, files: None)
    return log


@pytest.mark.parametrize(
    ("size", "part"),
    [
        (0, 12 * MIB),
        (1, 12 * MIB),
        (96 * MIB, 12 * MIB),
        (96 * MIB + 1, 13 * MIB),
        (500_000_000, 60 * MIB),
        (512 * MIB, 64 * MIB),
        (1 << 40, 64 * MIB),
    ],
)
def test_parts_of_a_file_have_the_size_that_every_release_gave_them(size: int, part: int) -> None:
    assert part_size(size) == part


@given(st.integers(0, 512 * MIB))
def test_a_file_of_up_to_512_mib_has_at_most_one_part_for_each_connection(size: int) -> None:
    assert -(-size // part_size(size)) <= 8


def test_the_digest_of_a_file_is_what_every_release_computed() -> None:
    one, two = hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"two").hexdigest()
    assert file_digest([one]) == one
    assert file_digest([one, two]) == "11914c19a28a98c57d12f3cce6c32b7944784f4b4781a706c24eb1dc284e2856"


def test_the_order_of_parts_changes_the_digest() -> None:
    one, two = hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"two").hexdigest()
    assert file_digest([one, two]) != file_digest([two, one])


def test_a_commit_states_hashes_of_what_it_stored() -> None:
    store = QuietStore()
    commit = owner(store, 3).commit({"a.bin": b"0123456789", "b.bin": b"b"}, step=1, samples_seen=1, reason="interval")
    for file in commit.files:
        assert hashlib.sha256(store.objects[file.key]).hexdigest() == file.sha256
    assert commit.digests == {
        "a.bin": file_digest([file.sha256 for file in commit.files if file.name == "a.bin"]),
        "b.bin": hashlib.sha256(b"b").hexdigest(),
    }


def test_a_file_whose_digest_is_not_that_of_its_parts_is_not_loaded() -> None:
    store = QuietStore()
    log = owner(store, 3)
    commit = log.commit({"a.bin": b"0123456789"}, step=1, samples_seen=1, reason="interval")
    whole = hashlib.sha256(b"0123456789").hexdigest()
    with pytest.raises(NoReadableCheckpoint, match="not that of its parts"):
        log.load(commit.model_copy(update={"digests": {"a.bin": whole}}))


def test_the_smallest_object_is_sent_before_all_others() -> None:
    store = QuietStore()
    log = owner(store)
    store.puts.clear()
    log.commit({"middle": b"22", "small": b"1", "large": b"333"}, step=1, samples_seen=1, reason="interval")
    assert store.puts[0].endswith("/small")
