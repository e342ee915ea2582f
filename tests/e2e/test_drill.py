"""A running job is interrupted on purpose, and the score card says that nothing was lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from examples.demo import product
from examples.demo.kube import Kube
from examples.demo.run import remove
from spottune_contract.labels import pod_name
from spottune_contract.progress import Progress
from tests.e2e.waiting import until

NAME = "drilled"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_drill_with_notice_loses_no_step_and_says_so(product_installed: Kube) -> None:
    kube = product_installed
    remove(kube, NAME)
    kube.apply(product.job(NAME))

    def training() -> Progress | None:
        told = kube.progress(product.NAMESPACE, pod_name(NAME, 1))
        phase = kube.kubectl("get", "ftj", NAME, "-n", product.NAMESPACE, "-o", "jsonpath={.status.phase}")
        return told if told is not None and told.step >= 2 and phase == "Running" else None

    until(training, "two steps of the first attempt")
    command = [sys.executable, "-m", "spottune_cli", "drill", NAME, "-n", product.NAMESPACE, "--kind", "notice", "--yes", "-o", "json"]
    done = subprocess.run(
        [*command, "--price-per-hour", "1", "--kubeconfig", str(kube.kubeconfig)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    remove(kube, NAME)
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert (card["stepsLost"], card["exact"]["status"], card["kept"]) == (0, "True", True)
    assert card["attempts"] == {"from": 1, "to": 2}
    assert {"commit durable", "pod gone", "first useful step"} <= {part["until"] for part in card["parts"]}
    assert card["secondsLost"] > 0
    assert card["dollarsLost"] == pytest.approx(card["secondsLost"] / 3600, abs=1e-6)
