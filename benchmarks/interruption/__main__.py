"""The figures of interruptions. Brings the local cluster up, and takes it down again unless it ran before; needs root."""

from __future__ import annotations

import sys

from benchmarks import report
from benchmarks.interruption import figures, storm

PARTS: dict[str, report.Part] = {"cold": figures.cold, "warm": figures.warm, "power-off": figures.power_off, "storm": storm.measure}

if __name__ == "__main__":
    sys.exit(report.run("interruption", PARTS))
