"""Taking nodes down leaves nothing, whatever happened before."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcloud import cgroups, net, node, process
from localcloud.controlplane import ControlPlane
from localcloud.home import HOST_ADDRESS, Home
from tests.fixtures.homes import ephemeral_home

pytestmark = pytest.mark.nodes


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A control plane of these tests alone: they take all nodes of their home down."""
    with ephemeral_home("down") as home:
        net.up(home)
        plane = ControlPlane(home, HOST_ADDRESS)
        plane.up()
        yield plane


def traces(home: Home, indices: set[int]) -> list[str]:
    """Everything on this machine that belongs to nodes of `home`."""
    key = net.key(home)
    found = [f"{mount}/spottune/{key}" for mount in set(cgroups.hierarchies().values()) if (mount / "spottune" / key).exists()]
    found += [f"link {net.link_name(index)}" for index in indices if Path("/sys/class/net", net.link_name(index)).exists()]
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    found += [f"route {net.pod_network(index)}" for index in indices if net.pod_network(index) in routes]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode().replace("\0", " ")
            mounts = (entry / "mounts").read_text()
        except OSError:
            continue
        if f"{home.root}/nodes" in command:
            found.append(f"process {entry.name}: {command}")
        if f"{home.root}/nodes" in mounts:
            found.append(f"mounts of process {entry.name}: {command}")
    return found


def test_down_leaves_nothing_of_running_paused_cut_and_dead_nodes(plane: ControlPlane) -> None:
    home = plane.home
    nodes = [node.add(home, name=f"n{number}", wait=True) for number in range(4)]
    node.pause(home, "n1")
    node.cut(home, "n2")
    node.poweroff(home, "n3")
    indices = {each.index for each in nodes}
    assert traces(home, indices)
    node.down_all(home)
    assert traces(home, indices) == []
    node.down_all(home)
    assert node.list_nodes(home) == []


@pytest.mark.parametrize("milliseconds", [150, 300, 450, 600, 900])
def test_down_leaves_nothing_after_a_crash_in_the_middle_of_adding(plane: ControlPlane, milliseconds: int) -> None:
    home = plane.home
    adding = subprocess.Popen([sys.executable, "-m", "localcloud", "--home", str(home.root), "node", "add", "--name", "half"])
    time.sleep(milliseconds / 1000)  # the moment of the crash is what this test varies
    adding.kill()
    adding.wait()
    indices = {each.index for each in node.list_nodes(home)}
    node.down_all(home)
    assert traces(home, indices) == []
    assert node.add(home, name="half", wait=True).state == "Running"
    node.down_all(home)


def test_down_finds_nodes_whose_files_are_gone(plane: ControlPlane) -> None:
    home = plane.home
    added = node.add(home, name="lost", wait=True)
    for path in (added.directory / "node.json", added.directory / "init.json"):
        path.unlink()
    node.down_all(home)
    assert traces(home, {added.index}) == []


def test_a_node_ends_with_its_init(plane: ControlPlane) -> None:
    added = node.add(plane.home, name="headless", wait=True)
    init = added.init
    assert init is not None
    processes = [found for pid in added.cgroup.processes() if (found := process.Process.of(pid))]
    os.kill(init.pid, 9)
    deadline = time.monotonic() + 10
    while any(each.alive() for each in processes):
        assert time.monotonic() < deadline, "processes outlived the node's init"
        time.sleep(0.02)
    assert added.state == "Off"
    node.down_all(plane.home)
    assert traces(plane.home, {added.index}) == []
