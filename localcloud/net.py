"""The network of the local cluster: one bridge on this machine, one cable per node, and a wall around it all.

Nodes hang on the bridge `spottune0`; pods of node N live in 198.19.N.0/24, which the host routes to that node. The host forwards from the bridge to
the bridge only (its global `ip_forward` stays as it is), refuses everything the cluster sends elsewhere, and black-holes addresses of the
cluster that do not exist, so that nothing of it ever leaves the machine. Several homes may use the bridge at once; the last one removes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcloud.home import BRIDGE, HOST_ADDRESS, NODE_NETWORK, POD_NETWORK, Home
from localcloud.steps import Row, Step

NODE_LIMIT = 128
"""One /24 of the pod network 198.19.0.0/17 for each node."""
IMDS_ADDRESS = "169.254.169.254"
POD_BRIDGE = "cni0"
"""The bridge of the pods inside a node."""

_SHARED = Path("/run/spottune-localcloud")
"""What all homes of this machine have in common: who uses the bridge, and which node number is taken."""
_TABLE = "inet spottune"
_HOST_RULES = f"""
table {_TABLE} {{}}
delete table {_TABLE}
table {_TABLE} {{
  chain forward {{
    type filter hook forward priority -10; policy accept;
    iifname "{BRIDGE}" oifname "{BRIDGE}" accept
    iifname "{BRIDGE}" reject with icmpx type admin-prohibited
    oifname "{BRIDGE}" drop
  }}
  chain input {{
    type filter hook input priority -10; policy accept;
    iifname "{BRIDGE}" ip daddr != 198.18.0.0/15 drop
  }}
}}
"""
NODE_RULES = f"""
table {_TABLE} {{
  chain input {{
    type filter hook input priority -10; policy accept;
    iifname "{POD_BRIDGE}" ip daddr {IMDS_ADDRESS} drop
  }}
}}
"""
"""Inside a node: IMDS answers nobody behind another hop, as with httpPutResponseHopLimit 1. Packets vanish, as they do on EC2."""


class NetworkError(RuntimeError):
    """The kernel refused a network setting; the message shows the command and its answer."""


def node_address(index: int) -> str:
    """Address of node number `index` (0 to 127) on the bridge."""
    return f"198.18.1.{index + 1}"


def pod_network(index: int) -> str:
    """The pods of node number `index`."""
    return f"198.19.{index}.0/24"


def link_name(index: int) -> str:
    """The host's end of the node's cable."""
    return f"{BRIDGE}-n{index}"


def _far_end(index: int) -> str:
    """The node's end of its cable, before the node has it."""
    return f"{BRIDGE}-f{index}"


def mac_address(index: int) -> str:
    """Fixed per number, so that no neighbour table is stale when a number is used again."""
    return f"02:53:54:00:01:{index:02x}"


def up(home: Home) -> None:
    """Make bridge, routes and rules; nothing changes where they exist already.

    Raises:
        NetworkError: not root, or a kernel without bridges or nftables.
    """
    with _lock():
        users = _SHARED / "users"
        users.mkdir(exist_ok=True)
        (users / key(home)).write_text(str(home.root))
        if not _exists(BRIDGE):
            # A fixed address: by default a bridge takes the lowest one of its ports, and changes it when that node goes.
            command("ip", "link", "add", BRIDGE, "address", "02:53:54:00:00:01", "type", "bridge")
        for setting, value in {
            f"net/ipv6/conf/{BRIDGE}/disable_ipv6": "1",
            f"net/ipv4/conf/{BRIDGE}/forwarding": "1",
            f"net/ipv4/conf/{BRIDGE}/send_redirects": "0",
        }.items():
            path = Path("/proc/sys") / setting
            if path.exists():
                path.write_text(value)
        command("ip", "address", "replace", f"{HOST_ADDRESS}/16", "dev", BRIDGE)
        command("ip", "link", "set", BRIDGE, "up")
        for network in (NODE_NETWORK, "198.19.0.0/16"):
            command("ip", "route", "replace", "blackhole", network, "metric", "4278198272")
        command("nft", "-f", "-", given=_HOST_RULES)


def down(home: Home) -> None:
    """Forget this home; remove bridge, routes and rules if no other home uses them. For after everything else has stopped."""
    if not _SHARED.exists():
        return
    with _lock():
        (_SHARED / "users" / key(home)).unlink(missing_ok=True)
        for user in (_SHARED / "users").glob("*"):
            if Path(user.read_text()).is_dir():
                return
        if _exists(BRIDGE):
            command("ip", "link", "delete", BRIDGE)
        for network in (NODE_NETWORK, "198.19.0.0/16"):
            command("ip", "route", "flush", "type", "blackhole", network)
        command("nft", "-f", "-", given=f"table {_TABLE} {{}}\ndelete table {_TABLE}\n")
        for path in sorted(_SHARED.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        _SHARED.rmdir()


def reserve(directory: Path) -> int:
    """A node number that no node of any home on this machine has, for the node in `directory`; the number longest unused first.

    Raises:
        NetworkError: all 128 are taken.
    """
    with _lock():
        numbers = _SHARED / "nodes"
        numbers.mkdir(exist_ok=True)
        latest = _SHARED / "latest"
        start = int(latest.read_text()) + 1 if latest.exists() else 0
        for step in range(NODE_LIMIT):
            index = (start + step) % NODE_LIMIT
            claim = numbers / str(index)
            if _exists(link_name(index)) or (claim.exists() and Path(claim.read_text()).is_dir() and claim.read_text() != str(directory)):
                continue
            claim.write_text(str(directory))
            latest.write_text(str(index))
            return index
    raise NetworkError(f"all {NODE_LIMIT} node numbers of this machine are taken: delete nodes that are off (`node delete NAME`)")


def connect(index: int, pid: int) -> None:
    """Plug node number `index`, whose namespace process `pid` lives in, into the bridge.

    The node gets its end last, and starts when it sees it: whoever dies in between leaves no node that starts on half a network.
    """
    name, far_end = link_name(index), _far_end(index)
    command("ip", "link", "add", name, "type", "veth", "peer", "name", far_end, "address", mac_address(index))
    command("ip", "link", "set", name, "master", BRIDGE, "up")
    command("ip", "route", "replace", pod_network(index), "via", node_address(index), "dev", BRIDGE)
    command("ip", "link", "set", far_end, "netns", str(pid), "name", "eth0")


def cut(index: int) -> None:
    """Pull the node's cable: packets in both directions vanish."""
    command("ip", "link", "set", link_name(index), "down")


def heal(index: int) -> None:
    """Plug the node's cable in again."""
    command("ip", "link", "set", link_name(index), "up")


def is_cut(index: int) -> bool:
    """Whether the node's cable is pulled (or gone)."""
    try:
        return not int(Path(f"/sys/class/net/{link_name(index)}/flags").read_text(), 16) & 1
    except OSError:
        return True


def is_plugged_in(index: int) -> bool:
    """Whether the node has a cable, cut or not; one that still has both ends here is none."""
    return _exists(link_name(index)) and not _exists(_far_end(index))


def disconnect(index: int) -> None:
    """Remove cable and route of a node that is off, and give its number back."""
    if _exists(link_name(index)):
        # The kernel removes the pair itself once the namespace is gone, perhaps between our look and our command.
        subprocess.run(["ip", "link", "delete", link_name(index)], capture_output=True, check=False)
    subprocess.run(["ip", "route", "delete", pod_network(index), "via", node_address(index)], capture_output=True, check=False)
    (_SHARED / "nodes" / str(index)).unlink(missing_ok=True)


def disconnect_all(directory: Path) -> None:
    """Disconnect every node whose files were below `directory`, for nodes that left nothing but their number."""
    for claim in sorted((_SHARED / "nodes").glob("*")):
        if Path(claim.read_text()).is_relative_to(directory):
            disconnect(int(claim.name))


def command(*words: str, given: str | None = None) -> str:
    """Run a network command; returns what it printed.

    Raises:
        NetworkError: it failed or is not installed.
    """
    try:
        done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NetworkError(f"{words[0]} is not installed: install the packages of localcloud/packages.txt") from None
    if done.returncode:
        raise NetworkError(
            f"`{' '.join(words)}` failed (root and a kernel with bridges, veth and nftables are needed): {done.stderr.strip()}"
        )
    return done.stdout


def _exists(link: str) -> bool:
    return Path(f"/sys/class/net/{link}").exists()


def key(home: Home) -> str:
    """A short name for a home among all homes of this machine."""
    return hashlib.sha256(str(home.root).encode()).hexdigest()[:12]


@contextmanager
def _lock() -> Iterator[None]:
    try:
        _SHARED.mkdir(exist_ok=True)
    except OSError as error:
        raise NetworkError(f"cannot write {_SHARED}: {error.strerror}; the local cluster's network needs root") from error
    with (_SHARED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _up(home: Home) -> str:
    up(home)
    return f"{BRIDGE} {HOST_ADDRESS}/16, pods {POD_NETWORK}"


def _status(home: Home) -> list[Row]:
    return [Row("network", "up" if _exists(BRIDGE) else "down", f"{BRIDGE} {HOST_ADDRESS}/16")]


STEP = Step("network", _up, down, _status)
