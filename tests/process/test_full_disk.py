"""A full disk: what the node lacks ends in a word that names it, never in a damaged commit."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.trainerprocess import Bench

pytestmark = [pytest.mark.process, pytest.mark.storage, pytest.mark.nodes]

SCRATCH_BYTES = 64 * 1024


@pytest.fixture
def tiny_scratch(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB (root)."""
    folder = tmp_path / "tiny-scratch"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SCRATCH_BYTES}", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def filled(folder: Path) -> Path:
    """Leave not one byte free."""
    (folder / "filler").write_bytes(bytes(SCRATCH_BYTES))
    with pytest.raises(OSError, match="No space left"):
        (folder / "more").write_bytes(b"x")
    return folder


def test_a_full_scratch_volume_does_not_touch_training_and_its_commits(bench: Bench, tiny_scratch: Path) -> None:
    full = {"SPOTTUNE_SCRATCH_DIR": str(filled(tiny_scratch)), "TMPDIR": str(tiny_scratch)}
    job = bench.job(checkpoint={"everySteps": 2})
    first = job.start(1, environ=full)
    first.at_step(5)
    first.signal(signal.SIGTERM)
    assert first.ended(10).step >= 5
    word = job.start(2, environ=full).ended(0)
    assert word.log is not None
    assert word.log.last_commit is not None
    assert word.log.last_commit.digests == bench.twin


def test_a_scratch_volume_too_small_for_the_model_ends_the_attempt_and_names_the_remedy(bench: Bench, tiny_scratch: Path) -> None:
    client = bench.store.client()
    for path in bench.model.iterdir():
        client.upload_file(str(path), bench.bucket, f"model/tiny/{path.name}")
    job = bench.job(model={"source": f"s3://{bench.bucket}/model/tiny"})
    word = job.start(1, environ={"SPOTTUNE_SCRATCH_DIR": str(filled(tiny_scratch))}).ended(30)
    assert word.reason == "ScratchFull"
    assert "give the pod more ephemeral storage" in word.message
    assert word.log is not None
    assert word.log.last_commit is None
