"""Records of the checkpoint log: golden bytes, and `decode` against every kind of damage."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spottune_contract.layout import data_key
from spottune_contract.records import (
    MAX_RECORD_BYTES,
    Claim,
    Commit,
    DataFile,
    ForeignRecord,
    Origin,
    Rejected,
    Resume,
    UnreadableRecord,
    canonical,
    decode,
    encode,
)

GOLDEN = Path(__file__).with_name("golden")
WRITER = "0123456789abcdef"
SHA = hashlib.sha256(b"content").hexdigest()


def _file(name: str, part: int, object_name: str) -> DataFile:
    return DataFile(name=name, part=part, key=data_key(7, WRITER, 1200, "fedcba9876543210", object_name), size=7, sha256=SHA)


RECORDS: dict[str, Claim | Resume | Commit] = {
    "claim": Claim(
        slot=0,
        epoch=7,
        writer=WRITER,
        written_at="2026-01-02T03:04:05.678+00:00",
        pod_uid="11111111-2222-3333-4444-555555555555",
        node="ip-10-0-0-1",
        spec_hash="0" * 64,
        image_digest="sha256:" + "a" * 64,
        compute_class="cpu avx512 threads=2 world=1 micro=1 torch=2.15.0",
        versions={"spottune": "0.1.0", "torch": "2.15.0"},
    ),
    "resume": Resume(
        slot=12, epoch=7, writer=WRITER, parent=9, rejected=(Rejected(slot=11, why="data/…/adapter.safetensors: SHA-256 differs"),)
    ),
    "resume-from-start": Resume(slot=1, epoch=7, writer=WRITER, parent=None),
    "commit": Commit(
        slot=13,
        epoch=7,
        writer=WRITER,
        save="fedcba9876543210",
        step=1200,
        samples_seen=19200,
        reason="notice",
        files=(
            _file("adapter.safetensors", 0, "adapter.safetensors.part0000"),
            _file("adapter.safetensors", 1, "adapter.safetensors.part0001"),
        ),
        digests={"adapter.safetensors": SHA},
        loss=1.25,
        eval_loss=None,
        timings={"snapshot": 0.125, "upload": 2.5},
    ),
    "imported": Commit(
        slot=2,
        epoch=1,
        writer=WRITER,
        save="fedcba9876543210",
        step=1200,
        samples_seen=19200,
        reason="imported",
        files=(),
        origin=Origin(
            location="s3://bucket/prefix/eu-1/demo/11111111-2222-3333-4444-555555555555",
            slot=13,
            epoch=7,
            writer="aaaaaaaaaaaaaaaa",
            save="bbbbbbbbbbbbbbbb",
        ),
    ),
    "final": Commit(
        slot=14,
        epoch=7,
        writer=WRITER,
        save="fedcba9876543210",
        step=1200,
        samples_seen=19200,
        reason="final",
        pinned=True,
        files=(_file("cursor.json", 0, "cursor.json"),),
        digests={"cursor.json": SHA},
        loss=0.5,
        eval_loss=0.75,
    ),
}


def test_every_golden_sample_has_a_record_here() -> None:
    assert {path.stem for path in GOLDEN.glob("*.record.json")} == {f"{name}.record" for name in RECORDS}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_written_as_it_always_was(name: str) -> None:
    assert encode(RECORDS[name]) == (GOLDEN / f"{name}.record.json").read_bytes()


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_was_written_once_can_be_read_for_ever(name: str) -> None:
    record = RECORDS[name]
    assert decode((GOLDEN / f"{name}.record.json").read_bytes(), record.slot) == record


@given(st.sampled_from(sorted(RECORDS)), st.data())
def test_a_flipped_bit_is_always_seen(name: str, data: st.DataObject) -> None:
    body = bytearray(encode(RECORDS[name]))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(UnreadableRecord):
        decode(bytes(body), RECORDS[name].slot)


@given(st.sampled_from(sorted(RECORDS)), st.floats(0, 1, exclude_max=True))
def test_a_cut_record_is_always_seen(name: str, share: float) -> None:
    body = encode(RECORDS[name])
    with pytest.raises(UnreadableRecord):
        decode(body[: int(len(body) * share)], RECORDS[name].slot)


def test_a_record_in_another_slot_than_its_own_is_unreadable_not_foreign() -> None:
    with pytest.raises(UnreadableRecord) as error:
        decode(encode(RECORDS["claim"]), 3)
    assert not isinstance(error.value, ForeignRecord)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode(body, 0)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_json_with_a_right_hash_is_a_record_or_foreign(document: object) -> None:
    body = {"kind": "CLAIM", "slot": 0, "x": document}
    signed = {**body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}
    with pytest.raises(ForeignRecord):
        decode(canonical(signed), 0)


@pytest.mark.parametrize(
    "change", [{"protocol": 2}, {"kind": "MERGE"}, {"new_field": 1}, {"epoch": 0}, {"writer": "UPPER"}, {"epoch": None}]
)
def test_what_a_newer_release_may_have_written_is_told_from_damage(change: dict[str, object]) -> None:
    body = json.loads(encode(RECORDS["claim"])) | change
    del body["sha256"]
    body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    with pytest.raises(ForeignRecord):
        decode(canonical(body), 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"sha256": 1}',
        b'{"sha256": "' + b"0" * 64 + b'", "x": NaN}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"9" * 10_000,
        b"\xff\xfe",
        b" " * (MAX_RECORD_BYTES + 1),
    ],
    ids=["empty", "null", "list", "object", "number as hash", "NaN", "deep list", "deep object", "long number", "no UTF-8", "too long"],
)
def test_hostile_bytes_are_refused_without_another_exception(body: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode(body, 0)


def test_files_of_several_saves_are_no_commit() -> None:
    other = DataFile(name="x", key=data_key(7, WRITER, 1200, "0000000000000000", "x"), size=1, sha256=SHA)
    with pytest.raises(ValueError, match="several saves"):
        RECORDS["commit"].model_validate({**RECORDS["commit"].model_dump(), "files": [_file("y", 0, "y").model_dump(), other.model_dump()]})


@pytest.mark.parametrize(
    "key", ["log/0000000000.json", "../x", "data/e0007-0123456789abcdef/s0001200-fedcba9876543210/../x", "/etc/passwd"]
)
def test_a_key_outside_of_the_data_is_no_file_of_a_commit(key: str) -> None:
    with pytest.raises(ValueError, match="not a data key"):
        Commit(
            slot=0, epoch=7, writer=WRITER, save="fedcba9876543210", step=1, samples_seen=1, reason="interval",
            files=(DataFile(name="x", key=key, size=1, sha256=SHA),),
        )  # fmt: skip
