"""Sources and outputs in a real S3 server: what is missing, hostile or refused is named."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from localcloud.objectstore import Identity, ObjectStore
from spottune_trainer.checkpoint import StorageDenied, StorageUnavailable
from spottune_trainer.objects import Objects, Patience, SourceMissing, SourceUnusable, open_objects, safe_relative
from tests.storage.fault_proxy import fault_proxy

pytestmark = pytest.mark.storage


def credentials(folder: Path, access_key: str, secret_key: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "accessKeyId").write_text(access_key)
    (folder / "secretAccessKey").write_text(secret_key)
    return str(folder)


@pytest.fixture
def objects(object_store: ObjectStore, tmp_path: Path) -> Objects:
    keys = credentials(tmp_path / "keys", object_store.access_key, object_store.secret_key)
    return open_objects(endpoint=object_store.endpoint, region="us-east-1", credentials_dir=keys)


def test_a_model_is_downloaded_with_its_names(objects: Objects, bucket: str, tmp_path: Path) -> None:
    objects.put(f"s3://{bucket}/models/tiny/config.json", b"{}")
    objects.put(f"s3://{bucket}/models/tiny/sub/weights.safetensors", b"w" * 3_000_000)
    objects.put(f"s3://{bucket}/models/tiny-2/config.json", b"other")
    paths = objects.download_prefix(f"s3://{bucket}/models/tiny", tmp_path / "model")
    assert [str(path.relative_to(tmp_path / "model")) for path in paths] == ["config.json", "sub/weights.safetensors"]
    assert paths[1].read_bytes() == b"w" * 3_000_000
    assert objects.names(f"s3://{bucket}/models/tiny") == ["config.json", "sub/weights.safetensors"]


def test_only_wanted_files_are_downloaded(objects: Objects, bucket: str, tmp_path: Path) -> None:
    objects.put(f"s3://{bucket}/m/model.safetensors", b"x")
    objects.put(f"s3://{bucket}/m/model.bin", b"pickle")
    paths = objects.download_prefix(f"s3://{bucket}/m", tmp_path / "m", wanted=lambda name: name.endswith(".safetensors"))
    assert [path.name for path in paths] == ["model.safetensors"]


def test_an_object_is_read_up_to_a_limit(objects: Objects, bucket: str) -> None:
    objects.put(f"s3://{bucket}/data/train.jsonl", b"line\n" * 10)
    assert objects.read(f"s3://{bucket}/data/train.jsonl", limit=50) == b"line\n" * 10
    assert objects.size(f"s3://{bucket}/data/train.jsonl") == 50
    with pytest.raises(SourceUnusable, match="more than 49 bytes"):
        objects.read(f"s3://{bucket}/data/train.jsonl", limit=49)


@pytest.mark.parametrize("call", ["read", "size", "download", "download_prefix"])
def test_a_missing_source_is_named(objects: Objects, bucket: str, tmp_path: Path, call: str) -> None:
    uri = f"s3://{bucket}/nothing/here.jsonl"
    arguments = {"download": (tmp_path / "file",), "download_prefix": (tmp_path / "folder",)}.get(call, ())
    with pytest.raises(SourceMissing, match=r"nothing/here\.jsonl"):
        getattr(objects, call)(uri, *arguments)


def test_a_missing_bucket_is_told_from_a_missing_object(objects: Objects) -> None:
    with pytest.raises(StorageDenied) as error:
        objects.read("s3://no-such-bucket-at-all/x")
    assert error.value.reason == "BucketMissing"


def test_an_output_may_be_written_twice(objects: Objects, bucket: str) -> None:
    for body in (b"first", b"second"):
        objects.put(f"s3://{bucket}/out/adapter_config.json", body)
    assert objects.read(f"s3://{bucket}/out/adapter_config.json") == b"second"


def test_what_is_written_once_is_not_overwritten_and_may_be_there_already(objects: Objects, bucket: str) -> None:
    """The template of examples/aws allows trainers no other PUT below a job's location; an answer that was lost is asked for again."""
    where, at_once = f"s3://{bucket}/job/tail/e0001-abcdefgh.log", Patience(unavailable=0.0, denied=0.0)
    for _ in range(2):
        objects.put(where, b"first", once=True, patience=at_once)
    with pytest.raises(StorageUnavailable):
        objects.put(where, b"second", once=True, patience=at_once)
    assert objects.read(where, limit=10) == b"first"


def test_an_output_that_may_not_be_written_names_the_action(object_store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    reader = Identity("output-reader", f"key{secrets.token_hex(4)}", secrets.token_hex(12), (f"Read:{bucket}", f"List:{bucket}"))
    object_store.admit(reader)
    keys = credentials(tmp_path / "reader", reader.access_key, reader.secret_key)
    with pytest.raises(StorageDenied, match="s3:PutObject") as error:
        open_objects(endpoint=object_store.endpoint, region="us-east-1", credentials_dir=keys).put(f"s3://{bucket}/out/x", b"x")
    assert reader.secret_key not in str(error.value)


def test_a_download_that_is_cut_off_is_repeated(object_store: ObjectStore, bucket: str, objects: Objects, tmp_path: Path) -> None:
    objects.put(f"s3://{bucket}/m/model.safetensors", b"w" * 100_000)
    keys = credentials(tmp_path / "keys", object_store.access_key, object_store.secret_key)
    with fault_proxy(object_store) as proxy:
        cuts = iter([True, True])
        proxy.cut = lambda request: request.method == "GET" and request.key.startswith("m/") and next(cuts, False)
        through = open_objects(endpoint=proxy.endpoint, region="us-east-1", credentials_dir=keys)
        (path,) = through.download_prefix(f"s3://{bucket}/m", tmp_path / "model")
        assert path.stat().st_size == 100_000


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/../b", "/etc/passwd", "a//b", "", ".hidden", "a/.git", "x\x00", "x\n", "a\\..\\b", "C:x"]
)
def test_f73_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="plain relative file name"):
        safe_relative(name)


@pytest.mark.parametrize("name", ["config.json", "sub/model-00001-of-00002.safetensors", "tokenizer.model", "a b.txt"])
def test_an_ordinary_name_is_kept(name: str) -> None:
    assert str(safe_relative(name)) == name


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/../x", "s3://bucket/a//b", "http://bucket/x"])
def test_an_odd_uri_is_refused_before_anything_is_asked(objects: Objects, uri: str) -> None:
    with pytest.raises((SourceMissing, SourceUnusable)):
        objects.read(uri)


def test_f73_an_object_with_a_hostile_name_is_not_downloaded(
    objects: Objects, object_store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    object_store.client().put_object(Bucket=bucket, Key="m/.ssh/authorized_keys", Body=b"x")
    with pytest.raises(SourceUnusable, match="cannot be a file"):
        objects.download_prefix(f"s3://{bucket}/m", tmp_path / "model")
    assert not (tmp_path / "model").exists()
