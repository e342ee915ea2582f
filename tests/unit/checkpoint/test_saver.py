"""Commits in the background: order, urgency, deadlines, and which errors end the run."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from spottune_contract import failpoint
from spottune_contract.records import Commit, CommitReason
from spottune_trainer.checkpoint import CheckpointError, CheckpointLog, Fenced, Saver, Snapshot, StorageUnavailable
from spottune_trainer.checkpoint.saver import should_supersede
from tests.unit.checkpoint.stores import Gate, QuietStore, claim, owner, silent, state


def snapshot(step: int, reason: CommitReason = "interval") -> Snapshot:
    return Snapshot(state(step), step=step, samples_seen=step, reason=reason)


class Bench:
    """A saver over a store in memory, and what it reported."""

    def __init__(self) -> None:
        self.store = QuietStore()
        self.log = owner(self.store, keep_last=2)
        self.commits: list[Commit] = []
        self.failures: list[CheckpointError] = []
        self.saver = Saver(self.log, on_commit=self.commits.append, on_failure=self.failures.append)

    def steps(self) -> list[int]:
        return [c.step for c in self.commits]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.saver.close()


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def test_flush_returns_when_everything_is_durable(bench: Bench) -> None:
    bench.saver.submit(snapshot(1))
    commit = bench.saver.flush(soon())
    assert commit is not None
    assert commit.step == 1
    assert bench.saver.last_commit == commit
    assert bench.saver.typical_seconds > 0
    assert not bench.saver.busy


def test_flush_with_nothing_submitted_returns_at_once(bench: Bench) -> None:
    assert bench.saver.flush(soon()) is None


def test_a_newer_snapshot_replaces_one_that_still_waits(bench: Bench) -> None:
    gate = bench.store.on_put = Gate()
    bench.saver.submit(snapshot(1))
    assert gate.arrived.wait(10)
    bench.saver.submit(snapshot(2))
    bench.saver.submit(snapshot(3))
    gate.open.set()
    bench.saver.flush(soon())
    assert bench.steps() == [1, 3]


def test_an_urgent_snapshot_ends_an_upload_that_would_make_it_late(bench: Bench) -> None:
    gate = bench.store.on_put = Gate()
    bench.saver.submit(snapshot(1))
    assert gate.arrived.wait(10)
    bench.store.on_put = lambda key: None
    bench.saver.submit(snapshot(2, "notice"), urgent=True, deadline=soon())
    commit = bench.saver.flush(soon())
    gate.open.set()
    assert commit is not None
    assert commit.step == 2
    assert bench.steps() == [2]


def test_without_a_deadline_even_an_urgent_snapshot_waits_its_turn(bench: Bench) -> None:
    gate = bench.store.on_put = Gate()
    bench.saver.submit(snapshot(1))
    assert gate.arrived.wait(10)
    bench.saver.submit(snapshot(2, "sigterm"), urgent=True)
    gate.open.set()
    bench.saver.flush(soon())
    assert bench.steps() == [1, 2]


def test_a_failed_periodic_save_is_reported_and_the_next_one_tries_again(bench: Bench) -> None:
    bench.store.on_put = silent("data/")
    bench.saver.submit(snapshot(1), deadline=soon(0.2))
    with pytest.raises(StorageUnavailable):
        bench.saver.flush(soon())
    bench.saver.poll()
    bench.store.on_put = lambda key: None
    bench.saver.submit(snapshot(2))
    bench.saver.flush(soon())
    assert bench.steps() == [2]
    assert [type(f) for f in bench.failures] == [StorageUnavailable]


def test_flush_gives_up_at_its_deadline(bench: Bench) -> None:
    gate = bench.store.on_put = Gate()
    bench.saver.submit(snapshot(1))
    assert gate.arrived.wait(10)
    began = time.monotonic()
    with pytest.raises(StorageUnavailable) as error:
        bench.saver.flush(began + 0.2)
    gate.open.set()
    assert error.value.reason == "CheckpointTooLate"
    assert time.monotonic() - began < 5


def test_a_fenced_saver_tells_everybody_who_asks(bench: Bench) -> None:
    claim(CheckpointLog(bench.store, epoch=2))
    bench.saver.submit(snapshot(1))
    with pytest.raises(Fenced):
        bench.saver.flush(soon())
    with pytest.raises(Fenced):
        bench.saver.poll()
    with pytest.raises(Fenced):
        bench.saver.submit(snapshot(2))


def test_a_defect_in_the_background_is_not_silent(bench: Bench) -> None:
    bench.saver.submit(Snapshot({"../escape": b""}, step=1, samples_seen=1, reason="interval"))
    with pytest.raises(ValueError, match="not a plain file name"):
        bench.saver.flush(soon())


def test_old_data_are_deleted_after_a_periodic_save(bench: Bench) -> None:
    for step in (1, 2, 3):
        bench.saver.submit(snapshot(step))
        bench.saver.flush(soon())
    # The log's lock is free again only after the retention that followed the last commit.
    bench.saver.close()
    bench.saver._thread.join(10)
    assert sorted({k.split("/")[2][:8] for k in bench.store.objects if k.startswith("data/")}) == ["s0000002", "s0000003"]


def test_a_defect_in_the_retention_is_not_silent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        bench.saver.submit(snapshot(step))
        bench.saver.flush(soon())
    monkeypatch.setitem(failpoint._armed, "T8", ("raise", 1))
    monkeypatch.setattr(failpoint, "_hits", {})
    bench.saver.submit(snapshot(3))
    bench.saver._thread.join(10)
    assert bench.steps() == [1, 2, 3]
    with pytest.raises(failpoint.FailpointError, match="T8"):
        bench.saver.flush(soon())


@pytest.mark.parametrize(
    ("deadline", "elapsed", "typical", "expected"),
    [
        (None, 1.0, 10.0, False),
        (100.0, 1.0, 0.0, True),
        (100.0, 1.0, 10.0, False),
        (20.0, 1.0, 10.0, True),
        (20.0, 9.0, 10.0, False),
        (10.0, 9.0, 10.0, False),
        (100.0, 16.0, 10.0, True),
    ],
    ids=["no deadline", "never measured", "both fit", "only the newer fits", "nearly done", "not even the newer fits", "overdue"],
)
def test_an_upload_is_given_up_only_if_that_makes_the_newer_state_durable(
    deadline: float | None, elapsed: float, typical: float, expected: bool
) -> None:
    assert should_supersede(now=0.0, deadline=deadline, elapsed=elapsed, typical=typical) is expected
