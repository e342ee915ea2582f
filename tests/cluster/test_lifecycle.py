"""`up` and `down` may be repeated, killed and mixed; in the end nothing is left."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from localcloud import process
from localcloud.__main__ import STEPS
from tests.fixtures.machine import OwnMachine

pytestmark = pytest.mark.nodes


def assert_nothing_remains(machine: OwnMachine) -> None:
    assert {what: left for what, left in machine.remains().items() if left} == {}


def assert_everything_works(machine: OwnMachine) -> None:
    code, table = machine.localcloud("status")
    assert code == 0, table
    _, lines = machine.localcloud("env")
    nodes = machine.output("bash", "-c", f"{lines}\nkubectl wait --for=condition=Ready --timeout=60s node/system")
    assert "condition met" in nodes


def up_killed_within_step(machine: OwnMachine, number: int) -> None:
    """Start `up` and SIGKILL it shortly after it has begun step `number` (0 is the first)."""
    running = machine.start(sys.executable, "-m", "localcloud", "up")
    assert running.stdout is not None
    said = [running.stdout.readline() for _ in range(number)]
    time.sleep(0.4)  # where it hits within the step is up to chance: that is the point
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert all(step.name in line for step, line in zip(STEPS, said, strict=False)), said


def test_up_twice_and_down_twice(own_machine: OwnMachine) -> None:
    assert own_machine.localcloud("status")[0] == 3
    for _ in range(2):
        code, said = own_machine.localcloud("up")
        assert code == 0, said
        assert_everything_works(own_machine)
    for _ in range(2):
        code, said = own_machine.localcloud("down")
        assert code == 0, said
        assert_nothing_remains(own_machine)


@pytest.mark.timeout(600)
def test_up_goes_on_wherever_it_was_killed(own_machine: OwnMachine) -> None:
    for number in range(len(STEPS)):
        up_killed_within_step(own_machine, number)
    code, said = own_machine.localcloud("up")
    assert code == 0, said
    assert_everything_works(own_machine)
    assert own_machine.localcloud("down")[0] == 0
    assert_nothing_remains(own_machine)


def test_everything_of_ours_is_killed_at_once_and_comes_up_again_or_goes_down(own_machine: OwnMachine) -> None:
    def kill_everything() -> None:
        for victim in process.marked(own_machine.home):
            victim.signal(signal.SIGKILL)

    code, said = own_machine.localcloud("up")
    assert code == 0, said
    kill_everything()
    code, said = own_machine.localcloud("up")
    assert code == 0, said
    assert_everything_works(own_machine)
    kill_everything()
    assert own_machine.localcloud("down")[0] == 0
    assert_nothing_remains(own_machine)


def test_what_is_kept_is_there_again(own_machine: OwnMachine) -> None:
    def shell(script: str) -> str:
        return own_machine.output("bash", "-c", f'eval "$({sys.executable} -m localcloud env)"\n{script}')

    assert own_machine.localcloud("up")[0] == 0
    shell("kubectl create namespace kept")
    code, said = own_machine.localcloud("down", "--keep")
    assert code == 0, said
    assert list(process.marked(own_machine.home)) == []
    assert own_machine.localcloud("up")[0] == 0
    assert "kept" in shell("kubectl get namespaces")


def test_what_is_mounted_below_the_home_is_unmounted_not_emptied(own_machine: OwnMachine, tmp_path: Path) -> None:
    """Containers see the machine's own files: to remove a home must never reach through a mount."""
    precious = tmp_path / "precious"
    precious.write_text("x")
    below = own_machine.home.root / "nodes" / "n" / "rootfs"
    below.mkdir(parents=True)
    own_machine.output("mount", "--bind", str(tmp_path), str(below))
    code, said = own_machine.localcloud("down")
    assert code == 0, said
    assert precious.read_text() == "x"
    assert_nothing_remains(own_machine)
