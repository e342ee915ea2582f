"""The demo itself, shorter and with random kill moments, on the whole local cluster."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.e2e
@pytest.mark.timeout(1500)
def test_the_demo_with_random_kill_moments_ends_equal_to_the_bit(cluster_home: Path) -> None:
    seed = int(os.environ.get("SPOTTUNE_DEMO_SEED") or random.SystemRandom().randrange(10_000))
    command = [sys.executable, "-m", "examples.demo", "--seed", str(seed), "--steps", "20", "--no-answers"]
    print(f"repeat with SPOTTUNE_DEMO_SEED={seed}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"seed {seed}:\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert "equal to the bit" in done.stdout
