"""The export of a finished run: FINAL is durable, so a store that refuses for a while costs time, never the result."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcloud.objectstore import ObjectStore
from spottune_contract.exitcodes import ExitCode
from spottune_contract.layout import S3Location
from spottune_contract.records import Commit, DataFile
from spottune_trainer.errors import StorageUnusable, Transient
from spottune_trainer.export import CONFIG, WEIGHTS, export_final
from spottune_trainer.objects import Objects, Patience, open_objects
from spottune_trainer.state_files import ADAPTER, TRAINER
from tests.storage.fault_proxy import FaultProxy, fault_proxy
from tests.storage.test_objects import credentials

pytestmark = pytest.mark.storage

FILES = {ADAPTER: b"weights", TRAINER: json.dumps({"adapter_config": {"r": 8}}).encode()}
KEY = f"data/e0003-aaaaaaaaaaaa/s0000060-bbbbbbbb/{ADAPTER}"
FINAL = Commit(
    slot=9,
    epoch=3,
    writer="a" * 12,
    save="b" * 8,
    step=60,
    samples_seen=600,
    reason="final",
    files=(DataFile(name=ADAPTER, key=KEY, size=7, sha256="0" * 64),),
)
LOCATION = S3Location.parse("s3://bucket/prefix/cluster/demo/uid")
SHORT = Patience(unavailable=0.4, denied=0.4, hopeless=0.4)


@pytest.fixture
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    with fault_proxy(object_store) as proxy:
        yield proxy


@pytest.fixture
def objects(proxy: FaultProxy, object_store: ObjectStore, tmp_path: Path) -> Objects:
    keys = credentials(tmp_path / "keys", object_store.access_key, object_store.secret_key)
    return open_objects(endpoint=proxy.endpoint, region="us-east-1", credentials_dir=keys)


def refuse_exports(proxy: FaultProxy, status: int, seconds: float) -> None:
    """Answer with `status` whatever is put under out/, until so many seconds after the first."""
    began: list[float] = []

    def refusal(method: str, key: str) -> int | None:
        if method != "PUT" or not key.startswith("out/"):
            return None
        began.append(time.monotonic())
        return status if began[-1] - began[0] < seconds else None

    proxy.refuse = lambda request: refusal(request.method, request.key)


@pytest.mark.parametrize("status", [403, 503])
def test_f20_a_refusal_that_passes_does_not_cost_the_finished_adapter(
    proxy: FaultProxy, objects: Objects, bucket: str, status: int
) -> None:
    refuse_exports(proxy, status, seconds=4.5)
    told: list[str] = []
    place = export_final(FILES, FINAL, f"s3://{bucket}/out/", objects, location=LOCATION, again=False, tell=told.append)
    assert objects.read(f"{place}/{WEIGHTS}") == b"weights"
    assert json.loads(objects.read(f"{place}/{CONFIG}")) == {"r": 8}
    assert len(told) == 1
    assert "out" in told[0]


@pytest.mark.parametrize(
    ("status", "again", "error", "code"),
    [
        (403, False, Transient, ExitCode.TRANSIENT),
        (403, True, StorageUnusable, ExitCode.STORAGE_DENIED),
        (503, False, Transient, ExitCode.TRANSIENT),
        (503, True, Transient, ExitCode.TRANSIENT),
    ],
    ids=["refused", "refused in the next attempt too", "away", "away in the next attempt too"],
)
def test_an_export_that_is_refused_for_long_is_left_to_one_more_attempt(
    proxy: FaultProxy, objects: Objects, bucket: str, status: int, again: bool, error: type[Exception], code: ExitCode
) -> None:
    refuse_exports(proxy, status, seconds=999)
    with pytest.raises(error) as caught:
        export_final(FILES, FINAL, f"s3://{bucket}/out", objects, location=LOCATION, again=again, patience=SHORT)
    assert caught.value.exit_code is code  # type: ignore[attr-defined]
    assert f"s3://{bucket}/out/{WEIGHTS}" in str(caught.value), "what is refused"
    assert f"{LOCATION}/{KEY}" in str(caught.value), "where the result is safe"


def test_an_output_bucket_that_was_deleted_may_come_back(objects: Objects, object_store: ObjectStore) -> None:
    name = f"late-{time.monotonic_ns()}"
    tries: list[str] = []

    def tell(trouble: str) -> None:
        tries.append(trouble)
        object_store.client().create_bucket(Bucket=name)

    place = export_final(FILES, FINAL, f"s3://{name}/out", objects, location=LOCATION, again=False, tell=tell)
    assert objects.read(f"{place}/{WEIGHTS}") == b"weights"
    assert len(tries) == 1
