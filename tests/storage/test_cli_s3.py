"""`spottune log`, `verify` and `restore` against a real S3 server, with logs that the real writer made."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from typer.testing import CliRunner, Result

from localcloud.objectstore import Identity, ObjectStore
from spottune_cli.main import app
from spottune_contract.layout import S3Location
from spottune_trainer.checkpoint import CheckpointLog, open_store
from tests.storage.fault_proxy import FaultProxy, fault_proxy

pytestmark = pytest.mark.storage

CLAIM = {"pod_uid": "uid", "node": "node-1", "spec_hash": "", "image_digest": "", "compute_class": "cpu", "versions": {}}
BLOCKED = ("torch", "transformers", "peft", "numpy", "safetensors", "kubernetes", "kopf")
RUN = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ImportError(f"{{name}} must not be needed")
sys.meta_path.insert(0, Blocked())
from spottune_cli.main import app
place, reader, endpoint = sys.argv[1:]
for command in (["log"], ["verify"], ["restore", "-o", "out", "--full"]):
    app([*command, place, "--endpoint", endpoint, "--credentials-dir", reader], standalone_mode=False)
"""


def state(step: int) -> dict[str, bytes]:
    return {
        "adapter.safetensors": secrets.token_bytes(20_000),
        "optimizer.safetensors": secrets.token_bytes(40_000),
        "trainer.json": b'{"adapter_config": {"r": %d}}' % step,
    }


class Site:
    """A job's log of two attempts (steps 10 to 50, the newest three kept) and a user who may only read it."""

    def __init__(self, store: ObjectStore, bucket: str, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.location = S3Location(bucket, "team/eu-1/demo/uid-1")
        self.states: dict[int, dict[str, bytes]] = {}
        self.admin = self.credentials("admin", store.access_key, store.secret_key)
        self.reader_keys = (f"reader-{bucket}", secrets.token_hex(16))
        store.admit(Identity(f"reader-{bucket}", *self.reader_keys, (f"Read:{bucket}", f"List:{bucket}")))
        self.reader = self.credentials("reader", *self.reader_keys)
        for epoch, steps in ((1, (10, 20)), (2, (30, 40, 50))):
            log = self.log(epoch)
            log.claim(**CLAIM)  # type: ignore[arg-type]
            log.resume(lambda commit, files: None)
            for step in steps:
                self.states[step] = state(step)
                log.commit(self.states[step], step=step, samples_seen=step, reason="final" if step == 50 else "interval", loss=1.5)
                log.retain()
        self._until_admitted()

    def log(self, epoch: int) -> CheckpointLog:
        store = open_store(self.location, endpoint=self.store.endpoint, region="us-east-1", credentials_dir=str(self.admin))
        return CheckpointLog(store, epoch=epoch, keep_last=3)

    def credentials(self, name: str, access: str, secret: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        (folder / "accessKeyId").write_text(access)
        (folder / "secretAccessKey").write_text(secret)
        return folder

    def spottune(self, command: str, *arguments: str, where: str = "", endpoint: str = "", credentials: Path | None = None) -> Result:
        """Run a command as the user who may only read. The folder `out` is below the test's own."""
        options = ["--endpoint", endpoint or self.store.endpoint, "--credentials-dir", str(credentials or self.reader)]
        placed = [str(self.folder / "out") if argument == "out" else argument for argument in arguments]
        return CliRunner().invoke(app, [command, where or str(self.location), *placed, *options], env={"COLUMNS": "200", "TZ": "UTC"})

    def keys(self) -> dict[str, str]:
        page = self.store.client().list_objects_v2(Bucket=self.location.bucket)
        return {item["Key"]: item["ETag"] for item in page["Contents"]}

    def write(self, key: str, body: bytes) -> None:
        self.store.client().put_object(Bucket=self.location.bucket, Key=self.location.key(key), Body=body)

    def key_of(self, step: int, name: str) -> str:
        return next(key.removeprefix(self.location.key("")) for key in self.keys() if f"/s{step:07d}-" in key and key.endswith(name))

    def _until_admitted(self) -> None:
        reader = self.store.client(aws_access_key_id=self.reader_keys[0], aws_secret_access_key=self.reader_keys[1])
        end = time.monotonic() + 20
        while True:
            try:
                reader.list_objects_v2(Bucket=self.location.bucket)
                break
            except ClientError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        with pytest.raises(ClientError, match="AccessDenied"):
            reader.put_object(Bucket=self.location.bucket, Key=self.location.key("x"), Body=b"")


@pytest.fixture
def site(object_store: ObjectStore, bucket: str, tmp_path: Path) -> Site:
    return Site(object_store, bucket, tmp_path)


@pytest.fixture
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    with fault_proxy(object_store) as proxy:
        yield proxy


def said(result: Result, code: int) -> str:
    """What was said on stderr; requires the exit code and that nothing was thrown."""
    assert result.exit_code == code, f"exit {result.exit_code}\n{result.stdout}\n{result.stderr}\n{result.exception!r}"
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.stderr


def test_neither_torch_nor_kubernetes_is_needed(site: Site) -> None:
    argv = [sys.executable, "-c", RUN, str(site.location), str(site.reader), site.store.endpoint]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd=site.folder, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert (site.folder / "out" / "state" / "optimizer.safetensors").read_bytes() == site.states[50]["optimizer.safetensors"]


def test_everything_works_for_who_may_only_read(site: Site) -> None:
    before = site.keys()
    table = site.spottune("log")
    assert said(table, 0) == ""
    assert "9 records of 2 attempts · 5 commits, 3 with data" in table.stdout
    assert "Finished with step 50" in table.stdout
    document = json.loads(site.spottune("log", "-o", "json").stdout)
    assert [r["data"] for r in document["log"] if r["kind"] == "COMMIT"] == ["swept", "swept", "kept", "kept", "kept"]
    assert (document["head"], document["final"], document["maxEpoch"]) == (8, True, 2)
    verified = site.spottune("verify", "--keep-last", "3")
    assert said(verified, 0) == ""
    assert "3 commits, 9 objects" in verified.stdout
    assert verified.stdout.endswith("OK\n")
    said(site.spottune("restore", "--at", "40", "-o", "out"), 0)
    assert (site.folder / "out" / "adapter_model.safetensors").read_bytes() == site.states[40]["adapter.safetensors"]
    assert json.loads((site.folder / "out" / "adapter_config.json").read_text()) == {"r": 40}
    said(site.spottune("restore", "--full", "--force", "-o", "out"), 0)
    assert {n: (site.folder / "out" / "state" / n).read_bytes() for n in site.states[50]} == site.states[50]
    assert site.keys() == before


def test_nothing_but_get_and_list_leaves_the_client(site: Site, proxy: FaultProxy) -> None:
    for command in (("log",), ("verify", "--all"), ("restore", "-o", "out")):
        said(site.spottune(*command, endpoint=proxy.endpoint, credentials=site.admin), 0)
    assert {request.method for request in proxy.seen} == {"GET"}
    assert len(proxy.seen) > 30


def test_verify_names_the_first_violation_or_all(site: Site) -> None:
    key = site.key_of(40, "optimizer.safetensors")
    site.write(key, b"x" * 40_000)
    site.write("log/0000000005.json", b"{}")
    site.write("notes.txt", b"")
    first = site.spottune("verify")
    assert "1 violation; stopped at the first one" in said(first, 1)
    assert "slot 5 (log/0000000005.json): no record with a hash; restore the object" in first.stdout
    everything = site.spottune("verify", "--all")
    assert "3 violations" in said(everything, 1)
    for told in ("slot 5 (log/0000000005.json)", "notes.txt: is no object of SpotTune", f"{key}: SHA-256 differs"):
        assert told in everything.stdout
    shown = site.spottune("log")
    assert said(shown, 0) == ""
    assert "damaged" in shown.stdout


def test_restore_refuses_damaged_data_and_names_the_kept_steps(site: Site) -> None:
    site.write(site.key_of(50, "adapter.safetensors"), b"x" * 20_000)
    assert "SHA-256 differs; give another step with --at, kept: 30, 40" in said(site.spottune("restore", "-o", "out"), 1)
    assert "step 37 is not kept; kept: 30, 40 (final 50)" in said(site.spottune("restore", "--at", "37", "-o", "out"), 2)
    assert not (site.folder / "out").exists()
    said(site.spottune("restore", "--at", "40", "-o", "out"), 0)
    assert "is not empty" in said(site.spottune("restore", "--at", "30", "-o", "out"), 2)


def test_an_answer_that_is_cut_short_once_is_asked_for_again(site: Site, proxy: FaultProxy) -> None:
    cut: set[str] = set()
    proxy.cut = lambda request: request.method == "GET" and request.key not in cut and not cut.add(request.key)  # type: ignore[func-returns-value]
    said(site.spottune("verify", endpoint=proxy.endpoint, credentials=site.admin), 0)
    assert len(cut) > 15


def test_whatever_is_wrong_with_the_bucket_is_said_in_a_sentence(site: Site) -> None:
    bucket = site.location.bucket
    assert "bucket 'no-such-bucket' does not exist" in said(
        site.spottune("log", where="s3://no-such-bucket/x/y", credentials=site.admin), 3
    )
    assert "there is no checkpoint log at" in said(site.spottune("verify", where=f"s3://{bucket}/elsewhere"), 2)
    assert "but below it: eu-1/demo/uid-1" in said(site.spottune("verify", where=f"s3://{bucket}/team"), 2)
    assert "has no s3:// scheme" in said(site.spottune("log", where=f"gs://{bucket}"), 2)
    nobody = site.credentials("nobody", "nobody", "wrong")
    assert "was refused with InvalidAccessKeyId (403): grant it to yourself" in said(site.spottune("log", credentials=nobody), 3)
    assert "accessKeyId in --credentials-dir cannot be read" in said(site.spottune("log", credentials=site.folder / "none"), 3)
    assert "is no endpoint: write https://HOST" in said(site.spottune("log", endpoint="localhost:1"), 2)


def test_a_user_without_the_right_to_read_is_told_which_right_and_where(site: Site) -> None:
    lister = Identity("lister", "lister", "secret-of-lister", (f"List:{site.location.bucket}",))
    site.store.admit(lister)
    client = site.store.client(aws_access_key_id="lister", aws_secret_access_key="secret-of-lister")
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            client.list_objects_v2(Bucket=site.location.bucket)
            break
        except ClientError:
            time.sleep(0.05)
    result = site.spottune("log", credentials=site.credentials("lister", "lister", "secret-of-lister"))
    assert f"s3:GetObject (and s3:ListBucket, without which a missing key looks forbidden) on {site.location}/log/*" in said(result, 3)
