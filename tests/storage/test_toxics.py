"""The checkpoint log through a bad network: what is acknowledged is there, all else raises in time, and afterwards work goes on."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any, Literal

import pytest

from localcloud.toxiproxy import Proxy
from spottune_contract.records import Commit
from spottune_trainer.checkpoint import CheckpointLog, StorageUnavailable
from tests.storage.job import CLAIM, Job, commit, contents, state

pytestmark = pytest.mark.storage

Direction = Literal["upstream", "downstream"]
DEADLINE = 1.5
"""Seconds that a commit may take while the network is bad."""
LATE = 1.5
"""Seconds after its deadline by which a commit must have said so, on a busy machine."""

TOXICS: dict[str, tuple[str, Direction, dict[str, int], bool]] = {
    # name: kind, stream, attributes, whether a commit can succeed
    "reset at once": ("reset_peer", "downstream", {"timeout": 0}, False),
    "reset after a while": ("reset_peer", "upstream", {"timeout": 30}, False),
    "closed without an answer": ("timeout", "downstream", {"timeout": 100}, False),
    "half open": ("timeout", "upstream", {"timeout": 0}, False),
    "answers that never come": ("timeout", "downstream", {"timeout": 0}, False),
    "cut in mid-upload": ("limit_data", "upstream", {"bytes": 30_000}, False),
    "answers cut short": ("limit_data", "downstream", {"bytes": 60}, False),
    "latency with jitter": ("latency", "downstream", {"latency": 60, "jitter": 50}, True),
    "a thin line": ("bandwidth", "upstream", {"rate": 400}, True),
    "crumbs": ("slicer", "upstream", {"average_size": 700, "size_variation": 300, "delay": 10}, True),
}


def within(log: CheckpointLog, step: int, seconds: float) -> Commit | None:
    """The commit if it was acknowledged; None if it raised `StorageUnavailable`, in time."""
    began = time.monotonic()
    made = None
    with suppress(StorageUnavailable):
        made = log.commit(state(step), step=step, samples_seen=step, reason="notice", deadline=began + seconds)
    assert time.monotonic() - began < seconds + LATE
    return made


@pytest.mark.parametrize("name", TOXICS)
def test_f16_f19_on_a_bad_network_a_commit_is_durable_or_raises_in_time_and_then_work_goes_on(
    job: Job, storage_proxy: Proxy, name: str
) -> None:
    kind, stream, attributes, can_succeed = TOXICS[name]
    log, _ = job.owner(1, endpoint=storage_proxy.url)
    commit(log, 10)
    storage_proxy.add(kind, stream=stream, **attributes)
    during = [within(log, step, 20.0 if can_succeed else DEADLINE) for step in (20, 30)]
    assert [made is not None for made in during] == [can_succeed, can_succeed]
    storage_proxy.heal()
    commit(log, 40)

    reader, restored = job.owner(2)
    assert restored is not None
    assert (restored.commit.step, contents(restored.files), restored.rejected) == (40, state(40), ())
    for made in filter(None, during):
        assert contents(reader.load(made)) == state(made.step)


@pytest.mark.parametrize("name", ["reset at once", "closed without an answer", "cut in mid-download", "latency with jitter"])
def test_f19_a_resume_outlives_a_bad_network_and_takes_no_cut_answer_for_damage(job: Job, storage_proxy: Proxy, name: str) -> None:
    log, _ = job.owner(1)
    commit(log, 10, 20)
    kind, stream, attributes, _ = TOXICS.get(name, ("limit_data", "downstream", {"bytes": 30_000}, False))
    late = job.log(2, endpoint=storage_proxy.url)
    late.claim(**CLAIM)
    storage_proxy.add(kind, stream=stream, **attributes)
    threading.Timer(1.0, storage_proxy.heal).start()
    restored = late.resume(lambda commit, files: None)
    assert restored is not None
    assert (restored.commit.step, contents(restored.files), restored.rejected) == (20, state(20), ())


def test_f19_a_network_that_is_bad_again_and_again_loses_nothing_that_was_acknowledged(job: Job, storage_proxy: Proxy) -> None:
    log, _ = job.owner(1, endpoint=storage_proxy.url)
    acknowledged: list[Commit] = []
    quick: list[tuple[str, Direction, dict[str, Any], bool]] = [toxic for toxic in TOXICS.values() if not toxic[3]]
    for number, (kind, stream, attributes, _) in enumerate(quick, 1):
        # Half of the connections: a commit's PUT may arrive and its answer not, or the reverse.
        storage_proxy.add(kind, stream=stream, toxicity=0.5, **attributes)
        acknowledged.extend(filter(None, [within(log, number, DEADLINE)]))
        storage_proxy.heal()
        acknowledged.extend(filter(None, [within(log, 100 + number, 20.0)]))
    assert len(acknowledged) >= len(quick)
    reader, restored = job.owner(2)
    assert restored is not None
    assert restored.commit.step == acknowledged[-1].step == 100 + len(quick)
    for made in acknowledged:
        assert contents(reader.load(made)) == state(made.step)
