"""The figures of the checkpoint log, each part in a module of its own."""

from __future__ import annotations

import sys

from benchmarks import report
from benchmarks.checkpoint import claim, memory, notice, overhead, requests, restore, stall, upload

PARTS: dict[str, report.Part] = {
    "stall": stall.measure,
    "overhead": overhead.measure,
    "upload": upload.measure,
    "notice": notice.measure,
    "restore": restore.measure,
    "memory": memory.measure,
    "requests": requests.measure,
    "claim": claim.measure,
}

if __name__ == "__main__":
    sys.exit(report.run("checkpoint", PARTS))
