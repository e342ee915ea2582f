"""The figures of the checkpoint log, each part in a module of its own."""

from __future__ import annotations

import sys

from benchmarks import report
from benchmarks.checkpoint import claim

PARTS: dict[str, report.Part] = {
    "claim": claim.measure,
}

if __name__ == "__main__":
    sys.exit(report.run("checkpoint", PARTS))
