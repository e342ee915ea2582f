"""What a machine lacks is said all at once, each with its remedy."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from localcloud import preflight
from localcloud.home import Home
from localcloud.packages import Package, parse, wanted
from localcloud.preflight import Machine, judge, look

GOOD = Machine(
    system="linux",
    uid=0,
    capabilities=(1 << 41) - 1,
    missing_devices=(),
    cgroup_refusals=(),
    namespace_refusal="",
    home=Path("/var/lib/x"),
    free_gigabytes=50,
    needed_gigabytes=10,
    missing_packages=(),
    taken=(),
)


def test_a_good_machine_passes() -> None:
    assert judge(GOOD) == []


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (replace(GOOD, system="darwin"), ["Linux", "kind"]),
        (replace(GOOD, uid=1000), ["not root", "kind"]),
        (replace(GOOD, capabilities=0), ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "privileged"]),
        (replace(GOOD, capabilities=GOOD.capabilities & ~(1 << 12)), ["CAP_NET_ADMIN", "privileged"]),
        (replace(GOOD, missing_devices=("/dev/null",)), ["/dev/null", "devtmpfs"]),
        (replace(GOOD, cgroup_refusals=("/sys/fs/cgroup/cpu: Read-only file system",)), ["Read-only file system", "writable"]),
        (replace(GOOD, namespace_refusal="unshare: No space left on device"), ["unshare", "max_*_namespaces"]),
        (replace(GOOD, free_gigabytes=3.21), ["3.2 GB", "/var/lib/x", "10", "--home"]),
        (replace(GOOD, missing_packages=(Package("runc", ""), Package("nftables", ""))), ["runc nftables", "packages --install"]),
        (replace(GOOD, taken=("198.18.0.1:6443",)), ["198.18.0.1:6443", "another home"]),
    ],
)
def test_each_lack_is_named_with_its_remedy(machine: Machine, words: list[str]) -> None:
    (reason,) = judge(machine)
    for word in words:
        assert word in reason


def test_all_lacks_are_told_at_once() -> None:
    poor = replace(GOOD, missing_devices=("/dev/null",), free_gigabytes=1, missing_packages=(Package("runc", ""),))
    assert len(judge(poor)) == 3


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    machine = look(Home(tmp_path / "new" / "home"))
    assert machine.free_gigabytes > 0
    assert machine.needed_gigabytes == 10
    assert list(tmp_path.iterdir()) == []


def test_the_list_of_packages_says_why_each_is_needed() -> None:
    assert parse("# x\n\nrunc   starts containers # really\n") == (Package("runc", "starts containers"),)
    assert all(package.why for package in wanted())


def test_a_gateway_that_accepts_connections_for_other_machines_is_nobody_on_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert preflight.answers("127.0.0.1", port)
        # What a machine behind a transparent proxy sees: the connection to a foreign address is made, from an address of its own.
        real = socket.create_connection
        monkeypatch.setattr(socket, "create_connection", lambda address, timeout: real(("127.0.0.1", port), timeout))
        assert not preflight.answers("198.18.0.1", port)
