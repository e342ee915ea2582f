"""The figures of the operator, each part in a module of its own."""

from __future__ import annotations

import sys

from benchmarks import report
from benchmarks.operator import latency

PARTS: dict[str, report.Part] = {
    "latency": latency.measure,
}

if __name__ == "__main__":
    sys.exit(report.run("operator", PARTS))
