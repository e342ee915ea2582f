"""The figures of the checkpoint log, each part in a module of its own."""

from __future__ import annotations

import sys

from benchmarks import report
from benchmarks.checkpoint import claim, notice, requests, upload

PARTS: dict[str, report.Part] = {
    "claim": claim.measure,
    "upload": upload.measure,
    "notice": notice.measure,
    "requests": requests.measure,
}

if __name__ == "__main__":
    sys.exit(report.run("checkpoint", PARTS))
