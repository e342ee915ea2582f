"""The figures of the checkpoint log, each part in a module of its own."""

from __future__ import annotations

import sys

from benchmarks import report
from benchmarks.checkpoint import claim, memory, overhead, restore, stall

PARTS: dict[str, report.Part] = {
    "claim": claim.measure,
    "stall": stall.measure,
    "overhead": overhead.measure,
    "restore": restore.measure,
    "memory": memory.measure,
}

if __name__ == "__main__":
    sys.exit(report.run("checkpoint", PARTS))
