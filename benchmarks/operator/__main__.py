"""The figures of the operator, each part in a module of its own."""

from __future__ import annotations

import sys

from benchmarks import report
from benchmarks.operator import latency, life, replacement, restart

PARTS: dict[str, report.Part] = {
    "life": life.measure,
    "replacement": replacement.measure,
    "restart": restart.measure,
    "latency": latency.measure,
}

if __name__ == "__main__":
    sys.exit(report.run("operator", PARTS))
