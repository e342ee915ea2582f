"""How long training stands still for a checkpoint, next to a copy of the same bytes and to torch's own asynchronous save."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict_saver import async_save

from benchmarks.checkpoint.example import EXAMPLE, LARGE, Sink, claimed, make_run, model, pretend_steps, samples, spec
from benchmarks.report import Figure, interval
from spottune_trainer.checkpoint import Saver, Snapshot
from spottune_trainer.loop import Run


def measure(quick: bool) -> Sequence[Figure]:
    """A state of 161 MB (11 MB if `quick`): rounds of memcpy, our snapshot, DCP `async_save`, every second one in reverse order."""
    chosen = spec(EXAMPLE if quick else LARGE)
    run = make_run(chosen, model(chosen), samples()[:100])
    pretend_steps(run, 1000)
    size = sum(len(data) for data in run.save().values())
    saver = Saver(claimed(Sink()))
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    folder = Path(tempfile.mkdtemp(prefix="spottune-bench-"))
    took: dict[str, list[float]] = {"memcpy": [], "ours": [], "dcp": []}
    first = _ours(run, saver)
    try:
        for turn in range(3 if quick else 14):
            parts = {"memcpy": lambda: _copy(source, target), "ours": lambda: _ours(run, saver), "dcp": lambda: _dcp(run, folder)}
            for name in list(parts)[:: 1 if turn % 2 == 0 else -1]:
                seconds = parts[name]()
                if turn:  # the first of each warms up
                    took[name].append(seconds)
    finally:
        saver.close()
        shutil.rmtree(folder, ignore_errors=True)
    low, high = interval(took["ours"])
    middle = {name: statistics.median(values) for name, values in took.items()}
    text = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in middle.items())
    detail = f"medians: {text}; ours {1000 * low:.1f} to {1000 * high:.1f} ms; the first, into fresh memory, {1000 * first:.0f} ms"
    floor = f"a bare memcpy alone is {middle['memcpy'] / middle['dcp']:.3f} × DCP"
    return [
        Figure(f"stall, {size / 1e6:.0f} MB, in memcpys", middle["ours"] / middle["memcpy"], "×", goal=2.0, detail=detail),
        Figure(f"stall, {size / 1e6:.0f} MB, to DCP async_save", middle["ours"] / middle["dcp"], "×", goal=0.125, detail=floor),
    ]


def _copy(source: torch.Tensor, target: torch.Tensor) -> float:
    started = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - started


def _ours(run: Run, saver: Saver) -> float:
    """All that the training thread does: check, copy, small files, hand over. The upload is waited for outside."""
    started = time.perf_counter()
    saver.submit(Snapshot(run.save(), run.step, run.samples_seen, "interval"))
    seconds = time.perf_counter() - started
    saver.flush()
    return seconds


def _dcp(run: Run, folder: Path) -> float:
    """`async_save` as documented, to a local folder; the write is waited for outside."""
    state: dict[str, Any] = {}
    for name, parameter in run.adapted.parameters.items():
        state[name] = parameter.detach()
        state |= {f"{name}/{key}": value for key, value in run.optimizer.state[parameter].items()}
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
        started = time.perf_counter()
        future: Any = async_save(state, checkpoint_id=str(folder / "state"))
        seconds = time.perf_counter() - started
        future.result()
    shutil.rmtree(folder / "state", ignore_errors=True)
    return seconds
