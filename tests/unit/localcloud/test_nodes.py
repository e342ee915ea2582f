"""What nodes are told about themselves, before any is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from localcloud import containerd, net
from localcloud.cgroups import hierarchies
from localcloud.kubelet import parse_taint

HYBRID = """25 1 254:0 / / rw - ext4 /dev/vda rw
30 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 25 0:25 / /sys/fs/cgroup/freezer rw,relatime shared:9 - cgroup cgroup rw,freezer
32 25 0:26 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,name=systemd
33 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""


def test_control_groups_of_both_versions_are_found() -> None:
    found = hierarchies(HYBRID)
    assert found["cpu"] == found["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert {"freezer", "name=systemd", ""} <= set(found)
    assert hierarchies("26 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw") == {"": Path("/sys/fs/cgroup")}


@pytest.mark.parametrize(
    ("text", "taint"),
    [
        ("karpenter.sh/unregistered:NoExecute", {"key": "karpenter.sh/unregistered", "effect": "NoExecute"}),
        ("a/b=c:NoSchedule", {"key": "a/b", "value": "c", "effect": "NoSchedule"}),
    ],
)
def test_taints_are_written_as_kubectl_writes_them(text: str, taint: dict[str, str]) -> None:
    assert parse_taint(text) == taint


@pytest.mark.parametrize("text", ["a", "a:Never", ":NoSchedule"])
def test_a_misspelt_taint_says_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"KEY\[=VALUE\]:EFFECT"):
        parse_taint(text)


def test_numbers_give_addresses_that_never_overlap() -> None:
    numbers = range(net.NODE_LIMIT)
    for of in (net.node_address, net.pod_network, net.mac_address, net.link_name):
        assert len({of(number) for number in numbers}) == net.NODE_LIMIT
    assert all(len(net.link_name(number)) <= 15 for number in numbers)


def test_runc_is_kept_from_lowering_scores_where_the_kernel_forbids_it() -> None:
    assert "restrict_oom_score_adj = true" in containerd._configuration(Path("/r"), Path("/c"), None, may_lower_oom_score=False)
    assert "restrict_oom_score_adj = false" in containerd._configuration(Path("/r"), Path("/c"), None, may_lower_oom_score=True)


def test_only_nodes_without_real_images_mount_the_host() -> None:
    assert "base_runtime_spec" not in containerd._configuration(Path("/r"), Path("/c"), None, True)
    assert 'base_runtime_spec = "/b"' in containerd._configuration(Path("/r"), Path("/c"), Path("/b"), True)
