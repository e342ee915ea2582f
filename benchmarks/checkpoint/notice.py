"""From SIGTERM to a durable commit, on a store that limits each connection: what comes after the running micro-step."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.checkpoint.upload import STATE_BYTES, sink_server, state
from benchmarks.report import Figure
from spottune_trainer.checkpoint.drive import CONNECTIONS
from spottune_trainer.checkpoint.log import CheckpointLog
from spottune_trainer.checkpoint.saver import Saver, Snapshot

RATE = 90e6
"""Bytes per second of one connection, as S3 gives them."""
CLAIM = {"pod_uid": "", "node": "", "spec_hash": "", "image_digest": "", "compute_class": "cpu"}


def measure(quick: bool) -> Sequence[Figure]:
    """Urgent saves of 500 MB through the real saver and log; the link's need is what eight connections take for the bytes alone."""
    files, need = state(STATE_BYTES), STATE_BYTES / (CONNECTIONS * RATE)
    with sink_server(RATE) as server, tempfile.TemporaryDirectory() as folder:
        log = CheckpointLog(server.store(Path(folder)), epoch=1)
        log.probe()
        log.claim(**CLAIM, versions={})
        log.resume(lambda commit, files: None)
        saver = Saver(log)
        seconds = []
        for step in range(1, 3 if quick else 8):
            started = time.monotonic()
            saver.submit(Snapshot(files, step, step, "sigterm"), urgent=True, deadline=started + 30)
            commit = saver.flush(started + 30)
            seconds.append(time.monotonic() - started)
            assert commit is not None
            assert commit.step == step
        saver.close()
    typical = statistics.median(seconds)
    return [
        Figure(
            "SIGTERM to durable commit after the micro-step, over the link's need",
            typical / need,
            "×",
            goal=2.0,
            detail=f"{typical:.2f} s (worst {max(seconds):.2f}) for {STATE_BYTES / 1e6:.0f} MB at {CONNECTIONS} × {RATE / 1e6:.0f} MB/s, "
            f"which need {need:.2f} s; the running micro-step and the snapshot come first",
        )
    ]
