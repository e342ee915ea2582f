"""How much memory checkpoints take, and that it stays so: in a process of its own, which has nothing else to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Figure


def measure(quick: bool) -> Sequence[Figure]:
    """A state of 161 MB for the peak, one of 16 MB for 500 checkpoints (40 if `quick`)."""
    count = 40 if quick else 500
    command = [sys.executable, "-m", "benchmarks.checkpoint.memory", "16" if quick else "161", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[2])
    found = json.loads(done.stdout.splitlines()[-1])
    return [
        Figure(
            "extra memory, an upload always under way",
            found["peak"],
            "× state",
            goal=2.0,
            detail=f"peak of the resident memory over that before the first; {found['single']:.2f} × if each upload ends before the next",
        ),
        Figure(
            f"growth over {count} checkpoints of 16 MB",
            found["growth"],
            "MB",
            goal=4.0,
            detail="resident memory, from the 20th to the last",
        ),
    ]


def _status(name: str) -> int:
    """A figure of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _main(megabytes: int, count: int) -> None:
    import torch

    from benchmarks.checkpoint.example import Sink, claimed
    from spottune_trainer.arena import Arena
    from spottune_trainer.checkpoint import Saver, Snapshot
    from spottune_trainer.snapshot import Snapshots

    def state(mb: int) -> Arena:
        parameters = {f"p{n:04d}": torch.nn.Parameter(torch.randn(mb * 1_000_000 // 12 // 100)) for n in range(100)}
        optimizer = torch.optim.AdamW(parameters.values())
        arena = Arena(parameters, optimizer)
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return arena

    def commits(arena: Arena, turns: int, at_once: int) -> list[int]:
        """Resident memory after each; `at_once`: how many states are on their way at the same time."""
        snapshots, saver = Snapshots(arena), Saver(claimed(Sink()))
        resident = []
        for step in range(1, turns + 1):
            if not snapshots.free:
                saver.flush()
            taken = snapshots.take(stepped=True)
            saver.submit(Snapshot({"adapter.safetensors": taken.adapter, "optimizer.safetensors": taken.optimizer}, step, step, "interval"))
            del taken
            if at_once == 1:
                saver.flush()
            resident.append(_status("VmRSS"))
        saver.flush()
        saver.close()
        return resident

    torch.set_num_threads(2)
    commits(state(1), turns=5, at_once=2)  # whatever is loaded or allocated once
    arena = state(megabytes)
    peaks = []
    for at_once in (1, 2):
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        commits(arena, 8, at_once)
        peaks.append((_status("VmHWM") - before) / (megabytes * 1e6))
    del arena
    resident = commits(state(16), turns=count, at_once=2)
    print(json.dumps({"single": peaks[0], "peak": peaks[1], "growth": (resident[-1] - resident[19]) / 1e6}))


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
