"""Keys are built and taken apart in one place, and nothing that is not ours can pass for ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spottune_contract.layout import (
    S3Location,
    data_key,
    job_location,
    parse_data_key,
    parse_slot_key,
    probe_key,
    save_prefix,
    slot_key,
    tail_key,
    writer_prefix,
)

token = st.from_regex(r"\A[a-z0-9]{8,32}\Z")
name = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,40}\Z")


def test_keys_look_like_this_for_ever() -> None:
    assert slot_key(0) == "log/0000000000.json"
    assert data_key(7, "0123456789abcdef", 1200, "fedcba98", "cursor.json") == "data/e0007-0123456789abcdef/s0001200-fedcba98/cursor.json"
    assert probe_key("0123abcd") == "probe/0123abcd"
    assert tail_key(7, "0123abcd") == "tail/e0007-0123abcd.log"


@given(st.integers(0, 10**10 - 1))
def test_a_slot_key_can_be_taken_apart(slot: int) -> None:
    assert parse_slot_key(slot_key(slot)) == slot


@given(st.integers(0, 10**10 - 2))
def test_slot_keys_sort_as_slots_do(slot: int) -> None:
    assert slot_key(slot) < slot_key(slot + 1)


@pytest.mark.parametrize("slot", [-1, 10**10])
def test_a_slot_out_of_range_is_refused(slot: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        slot_key(slot)


@given(st.integers(1, 10**6), token, st.integers(0, 10**8), token, name)
def test_a_data_key_can_be_taken_apart(epoch: int, writer: str, step: int, save: str, file: str) -> None:
    key = data_key(epoch, writer, step, save, file)
    parsed = parse_data_key(key)
    assert parsed is not None
    assert (parsed.epoch, parsed.writer, parsed.step, parsed.save, parsed.name) == (epoch, writer, step, save, file)
    assert key.startswith(save_prefix(epoch, writer, step, save))
    assert key.startswith(writer_prefix(epoch, writer))


@given(st.text(max_size=60))
def test_no_other_text_is_a_key_of_ours(text: str) -> None:
    for key in (text, "data/" + text, "data/e0007-0123456789abcdef/s0001200-fedcba98/" + text):
        parsed = parse_data_key(key)
        assert parsed is None or (str(parsed) == key and ".." not in key.split("/"))
    slot = parse_slot_key("log/" + text)
    assert slot is None or slot_key(slot) == "log/" + text


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "../x", "a/b", "/x", ".hidden", "x\n", "x\x00", "ä", "x" * 129, "a b"], ids=lambda bad: repr(bad)[:12]
)
def test_a_file_name_that_is_not_plain_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        data_key(7, "0123456789abcdef", 1, "fedcba98", bad)


@pytest.mark.parametrize("bad", ["", "short", "UPPERCASE", "../../etc", "x" * 33, "tokentoken\n"])
def test_an_identity_that_is_not_one_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="identity"):
        probe_key(bad)


@pytest.mark.parametrize(
    "key",
    [
        "data/e7-0123456789abcdef/s0001200-fedcba98/x",
        "data/e00007-0123456789abcdef/s0001200-fedcba98/x",
        "data/e0007-0123456789abcdef/s1200-fedcba98/x",
        "data/e0007-0123456789abcdef/s0001200-fedcba98/../x",
        "data/e0007-0123456789abcdef/s0001200-fedcba98/",
        "data//e0007-0123456789abcdef/s0001200-fedcba98/x",
        "/data/e0007-0123456789abcdef/s0001200-fedcba98/x",
        "data/e٠٠٠٧-0123456789abcdef/s0001200-fedcba98/x",
    ],
)
def test_a_key_that_only_looks_like_data_is_none(key: str) -> None:
    assert parse_data_key(key) is None


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://my.bucket-1/a/b=c/d_e/", "my.bucket-1", "a/b=c/d_e"),
    ],
)
def test_a_location_can_be_parsed_and_printed(uri: str, bucket: str, prefix: str) -> None:
    location = S3Location.parse(uri)
    assert (location.bucket, location.prefix) == (bucket, prefix)
    assert S3Location.parse(str(location)) == location


@pytest.mark.parametrize(
    "uri", ["", "bucket/x", "http://bucket/x", "s3:/bucket", "s3://", "s3://B/x", "s3://bucket/a//b", "s3://bucket/../x", "s3://bucket/a b"]
)
def test_a_location_that_is_none_is_refused_with_an_example(uri: str) -> None:
    with pytest.raises(ValueError, match=r"s3://BUCKET/PREFIX|letters, digits"):
        S3Location.parse(uri)


def test_a_job_of_the_same_name_has_another_place() -> None:
    one, two = (job_location("s3://bucket/runs", "eu-1", "team", uid) for uid in ("uid-1", "uid-2"))
    assert str(one) == "s3://bucket/runs/eu-1/team/uid-1"
    assert one.key("log/x") == "runs/eu-1/team/uid-1/log/x"
    assert one != two
