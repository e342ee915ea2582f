"""Snapshots in buffers that are used again: the bytes of safetensors, and never changed while somebody reads them."""

from __future__ import annotations

import gc
import hashlib
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
import safetensors.torch
import torch

from spottune_contract.records import Commit
from spottune_trainer.arena import Arena
from spottune_trainer.checkpoint import CheckpointError, Saver, Snapshot
from spottune_trainer.checkpoint.store import PutResult, Unknown
from spottune_trainer.loop import NonFinite, Run, train
from spottune_trainer.snapshot import KEPT_BUFFERS, Snapshots
from spottune_trainer.state_files import ADAPTER, OPTIMIZER
from tests.unit.checkpoint.stores import QuietStore, owner

MakeRun = Callable[..., Run]
Parameters = dict[str, torch.nn.Parameter]


def some_parameters(count: int = 6) -> Parameters:
    return {f"layers.{n}.lora_A.weight": torch.nn.Parameter(torch.randn(4, 3 + n)) for n in range(count)}


def stepped(parameters: Parameters) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(parameters.values())
    step(parameters, optimizer)
    return optimizer


def step(parameters: Parameters, optimizer: torch.optim.Optimizer) -> None:
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def snapshots_of(parameters: Parameters, optimizer: torch.optim.Optimizer) -> Snapshots:
    return Snapshots(Arena(parameters, optimizer))


def plainly(parameters: Parameters, optimizer: torch.optim.Optimizer) -> tuple[bytes, bytes]:
    """The same as safetensors makes it from the tensors themselves."""
    adapter = {name: p.detach().contiguous() for name, p in parameters.items()}
    moments = {f"{key}/{name}": value.contiguous() for name, p in parameters.items() for key, value in optimizer.state.get(p, {}).items()}
    return safetensors.torch.save(adapter), safetensors.torch.save(moments)


def test_the_bytes_are_those_of_safetensors(make_run: MakeRun) -> None:
    from tests.unit.trainer.conftest import Quiet

    run = make_run(maxSteps=2)
    files = run.save()
    adapter, _ = plainly(run.adapted.parameters, run.optimizer)
    assert (files[ADAPTER], files[OPTIMIZER]) == (adapter, safetensors.torch.save({}))
    train(run, Quiet())
    files = run.save()
    assert (files[ADAPTER], files[OPTIMIZER]) == plainly(run.adapted.parameters, run.optimizer)


@pytest.mark.parametrize("steps_apart", [False, True])
@pytest.mark.parametrize("dtypes", [(torch.bfloat16,), (torch.float32, torch.bfloat16), (torch.float16, torch.float64)])
def test_the_bytes_are_those_of_safetensors_for_other_types(dtypes: tuple[torch.dtype, ...], steps_apart: bool) -> None:
    parameters = {f"p{n}": torch.nn.Parameter(torch.randn(3, n).to(dtypes[n % len(dtypes)])) for n in range(1, 6)}
    optimizer = stepped(parameters)
    snapshots = Snapshots(Arena(parameters, optimizer, steps_apart=steps_apart))
    step(parameters, optimizer)
    taken = snapshots.take(stepped=True)
    assert (taken.adapter, taken.optimizer) == plainly(parameters, optimizer)


def test_a_parameter_that_is_not_contiguous_is_copied_as_safetensors_writes_it() -> None:
    parameters = {"p": torch.nn.Parameter(torch.randn(5, 3).T)}
    optimizer = stepped(parameters)
    assert snapshots_of(parameters, optimizer).take(stepped=True).adapter == plainly(parameters, optimizer)[0]


def test_a_buffer_is_used_again_when_nobody_reads_it_and_not_before() -> None:
    parameters = some_parameters()
    optimizer = stepped(parameters)
    snapshots = snapshots_of(parameters, optimizer)
    first = snapshots.take(stepped=True)
    piece = first.optimizer[7:11]  # as a request would still send it
    kept = bytes(piece)
    del first
    assert snapshots.free
    others = []
    for _ in range(3):
        step(parameters, optimizer)
        others.append(snapshots.take(stepped=True))
    assert not snapshots.free
    assert bytes(piece) == kept
    assert len({bytes(taken.adapter) for taken in others}) == 3
    held = snapshots.bytes_held
    others.clear()
    del piece
    assert snapshots.free
    for _ in range(20):
        snapshots.take(stepped=True)
    assert snapshots.bytes_held == held


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_one_number_of_the_adapter_may_be_infinite_or_nan(value: float) -> None:
    parameters = {f"p{n}": torch.nn.Parameter(torch.randn(n)) for n in (1, 2, 7, 33, 70_001)}
    optimizer = torch.optim.AdamW(parameters.values())
    snapshots, chosen = snapshots_of(parameters, optimizer), random.Random(4)
    for name, parameter in parameters.items():
        last = len(parameter) - 1
        for place in {0, last, *(chosen.randrange(last + 1) for _ in range(20))}:
            with torch.no_grad():
                before = parameter[place].item()
                parameter[place] = value
                assert not snapshots.take(stepped=False).finite, (name, place)
                parameter[place] = before
    assert snapshots.take(stepped=False).finite


def test_numbers_whose_sum_would_overflow_are_finite() -> None:
    parameters = {"p": torch.nn.Parameter(torch.full((100,), 3e38))}
    assert snapshots_of(parameters, torch.optim.AdamW(parameters.values())).take(stepped=False).finite


def test_a_state_that_is_not_finite_is_never_committed(make_run: MakeRun) -> None:
    run = make_run()
    with torch.no_grad():
        next(reversed(run.adapted.parameters.values()))[-1, -1] = math.nan
    with pytest.raises(NonFinite, match="the adapter is not finite"):
        run.save()
    assert run.snapshots.free


# --- with the saver -----------------------------------------------------------------------------------------------------------


def digests(files: Mapping[str, bytes | memoryview]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


class Bench:
    """Parameters that change with every step, and a saver over a store that is slow, loses answers and leaves requests behind."""

    def __init__(self) -> None:
        self.parameters = some_parameters()
        self.optimizer = stepped(self.parameters)
        self.snapshots = snapshots_of(self.parameters, self.optimizer)
        self.store = QuietStore()
        self.commits: list[Commit] = []
        self.failures: list[CheckpointError] = []
        self.saver = Saver(owner(self.store, keep_last=2), on_commit=self.commits.append, on_failure=self.failures.append)
        self.expected: dict[int, dict[str, str]] = {}

    def submit(self, at: int, *, urgent: bool = False, deadline: float | None = None) -> bool:
        """As the supervision does it."""
        step(self.parameters, self.optimizer)
        if not self.snapshots.free and not self.saver.withdraw(urgent=urgent) and not urgent:
            return False
        adapter, moments = plainly(self.parameters, self.optimizer)
        self.expected[at] = digests({ADAPTER: adapter, OPTIMIZER: moments})
        taken = self.snapshots.take(stepped=True)
        files = {ADAPTER: taken.adapter, OPTIMIZER: taken.optimizer}
        reason = "notice" if urgent else "interval"
        self.saver.submit(Snapshot(files, at, at, reason), urgent=urgent, deadline=deadline)
        return True


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.saver.close()


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def all_free(snapshots: Snapshots) -> bool:
    return all(buffer.free for buffer in snapshots._buffers)


def test_every_committed_state_is_that_of_its_step_however_slow_and_faulty_the_store(bench: Bench) -> None:
    chosen, lock = random.Random(5), threading.Lock()
    # The answer to the first PUT of some names is lost while its body is still being read, long after the retry succeeded.
    landed: dict[str, bytes] = {}

    def slow(key: str) -> PutResult | None:
        with lock:
            pause, lost = chosen.uniform(0, 0.004), chosen.random() < 0.1
        time.sleep(pause)
        return Unknown("lost") if lost and key.startswith("data/") else None

    original = bench.store.put

    def put(key: str, body: bytes | memoryview) -> PutResult:
        before = bytes(body)
        result = original(key, body)
        with lock:
            pause = chosen.uniform(0, 0.006)
        time.sleep(pause)
        assert bytes(body) == before, f"{key} changed while it was being sent"
        if key.startswith("data/"):
            landed[key] = before
        return result

    bench.store.on_put = slow
    bench.store.put = put  # type: ignore[method-assign]
    skipped = 0
    for at in range(1, 400):
        urgent = chosen.random() < 0.1
        skipped += not bench.submit(at, urgent=urgent, deadline=time.monotonic() + 20 if urgent else None)
        time.sleep(chosen.uniform(0, 0.003))
    bench.saver.flush(time.monotonic() + 20)
    assert len(bench.commits) > 20
    assert bench.failures == []
    for commit in bench.commits:
        assert commit.digests == bench.expected[commit.step], commit.step
        assert all(hashlib.sha256(landed[file.key]).hexdigest() == file.sha256 for file in commit.files)
    until(lambda: all_free(bench.snapshots))
    assert len(bench.snapshots._buffers) == KEPT_BUFFERS


def test_a_failed_save_gives_its_buffer_back_though_the_error_is_kept(bench: Bench) -> None:
    gc.disable()
    try:
        bench.store.on_put = lambda key: Unknown("503") if key.startswith("data/") else None
        bench.submit(1, deadline=time.monotonic() + 0.1)
        until(lambda: bool(bench.failures))
        until(lambda: all_free(bench.snapshots))
    finally:
        gc.enable()


def test_a_periodic_state_is_skipped_and_an_urgent_one_taken_if_requests_that_were_given_up_read_all_buffers(bench: Bench) -> None:
    readers = [bench.snapshots.take(stepped=True) for _ in range(KEPT_BUFFERS)]
    kept = [bytes(taken.adapter) for taken in readers]
    assert not bench.submit(1)
    assert bench.submit(2, urgent=True, deadline=time.monotonic() + 20)
    commit = bench.saver.flush(time.monotonic() + 20)
    assert commit is not None
    assert (commit.step, commit.digests) == (2, bench.expected[2])
    assert [bytes(taken.adapter) for taken in readers] == kept
    assert len(bench.snapshots._buffers) == KEPT_BUFFERS


def test_a_newer_state_takes_the_buffer_of_one_that_waits(bench: Bench) -> None:
    from tests.unit.checkpoint.stores import Gate

    gate = bench.store.on_put = Gate()
    assert bench.submit(1)
    assert gate.arrived.wait(10)
    for at in (2, 3, 4):
        assert bench.submit(at)
        assert len(bench.snapshots._buffers) == KEPT_BUFFERS
    gate.open.set()
    bench.saver.flush(time.monotonic() + 20)
    assert [commit.step for commit in bench.commits] == [1, 4]
    assert all(commit.digests == bench.expected[commit.step] for commit in bench.commits)


def test_an_urgent_snapshot_that_waits_does_not_give_way_to_a_periodic_one(bench: Bench) -> None:
    from tests.unit.checkpoint.stores import Gate

    gate = bench.store.on_put = Gate()
    assert bench.submit(1)
    assert gate.arrived.wait(10)
    assert bench.submit(2, urgent=True)
    assert not bench.submit(3)
    gate.open.set()
    bench.saver.flush(time.monotonic() + 20)
    assert [commit.step for commit in bench.commits] == [1, 2]
