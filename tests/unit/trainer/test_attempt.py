"""What an attempt makes of a restored state that is not what was committed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from spottune_contract.env import RunEnv
from spottune_contract.records import Commit
from spottune_trainer.attempt import Attempt
from spottune_trainer.checkpoint import Restored
from spottune_trainer.errors import Transient
from spottune_trainer.logs import Tail
from spottune_trainer.loop import Run, optimizer_step
from spottune_trainer.preemption import Preemption
from tests.unit.trainer.conftest import spec

MakeRun = Callable[..., Run]


@pytest.fixture
def attempt(tiny_model: Path) -> Attempt:
    env = RunEnv(cluster="c", namespace="n", job="j", job_uid="u", epoch=2, run_spec=spec(tiny_model))
    return Attempt(env, Preemption(), structlog.get_logger(), Tail(io.StringIO()), writer="w" * 8)


@pytest.fixture
def restored(make_run: MakeRun, quiet: Any) -> Restored:
    run = make_run()
    optimizer_step(run, quiet)
    files = run.save()
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    commit = Commit(slot=4, epoch=1, writer="v" * 8, save="s" * 8, step=1, samples_seen=8, reason="interval", files=(), digests=digests)
    return Restored(commit, files, ())


def test_a_restored_state_is_proven_and_said_to_be_exact(attempt: Attempt, restored: Restored, make_run: MakeRun) -> None:
    attempt._load(make_run(), restored)
    view = attempt.board.progress().exactness
    assert view is not None
    assert (view.exact, view.reason, view.parent_slot, view.digests) == (True, "StateVerified", 4, restored.commit.digests)


def test_a_memory_that_does_not_hold_what_was_loaded_ends_the_attempt(
    attempt: Attempt, restored: Restored, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    load = run.load

    def flipped(files: Any) -> None:
        load(files)
        run.optimizer.state[next(iter(run.adapted.parameters.values()))]["exp_avg"][0, 0] += 1e-6

    monkeypatch.setattr(run, "load", flipped)
    with pytest.raises(Transient, match=r"optimizer\.safetensors is not what was committed; the next attempt restores it again") as error:
        attempt._load(run, restored)
    assert error.value.reason == "StateDiffers"
    view = attempt.board.progress().exactness
    assert view is not None
    assert (view.exact, view.reason) == (False, "StateDiffers")
