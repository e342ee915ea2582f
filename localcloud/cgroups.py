"""The control groups of one node: its daemons and all its containers, to be frozen, counted and killed as one.

Works with cgroup v1 (also hybrid) and with v2. Containers are put in by the kubelet and runc below `<path>/pods`, daemons by us below
`<path>/daemons`. On v1 the daemons join the freezer only: their memory and CPU stay accounted where we were started.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.01


class CgroupError(RuntimeError):
    """The kernel's control groups cannot be used; the message says what is missing."""


def hierarchies(mountinfo: str | None = None) -> dict[str, Path]:
    """Where each v1 controller is mounted; the v2 tree (or hybrid's empty one) under the key `""`."""
    found: dict[str, Path] = {}
    for line in (mountinfo if mountinfo is not None else Path("/proc/self/mountinfo").read_text()).splitlines():
        left, _, right = line.partition(" - ")
        mount, kind, options = Path(left.split()[4]), right.split()[0], right.split()[2].split(",")
        if kind == "cgroup2":
            found.setdefault("", mount)
        elif kind == "cgroup":
            for option in options:
                if option in _CONTROLLERS or option.startswith("name="):
                    found.setdefault(option, mount)
    return found


_CONTROLLERS = frozenset(
    [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "blkio",
        "pids",
        "net_cls",
        "net_prio",
        "perf_event",
        "hugetlb",
        "rdma",
        "misc",
    ]
)
_NEEDED = ("cpu", "cpuset", "memory", "pids")


@dataclass(frozen=True)
class NodeCgroup:
    """The control groups of one node (or, without a last part, of all nodes of a home).

    Attributes:
        path: below every hierarchy's root, without a leading slash.
    """

    path: str

    @property
    def pods(self) -> str:
        """For the kubelet's `cgroupRoot`."""
        return f"/{self.path}/pods"

    def create(self) -> None:
        """Make the groups in every hierarchy.

        Raises:
            CgroupError: not root, no cgroups mounted, or a controller that kubelets need is missing.
        """
        mounts = hierarchies()
        unified = "freezer" not in mounts
        self._check(mounts, unified)
        try:
            for mount in set(mounts.values()):
                self._make(mount, unified)
        except OSError as error:
            raise CgroupError(
                f"cannot make control groups under {error.filename}: {error.strerror}; the local cluster needs root and writable cgroups"
            ) from error

    def join(self) -> None:
        """Put this very process (and its future children) among the node's daemons."""
        mounts = hierarchies()
        mount = mounts.get("freezer", mounts.get("", Path("/sys/fs/cgroup")))
        (mount / self.path / "daemons" / "cgroup.procs").write_text("0")

    def processes(self) -> set[int]:
        """PIDs of everything in the node, containers too, seen from the caller's PID namespace."""
        pids: set[int] = set()
        for tree in self._trees():
            for file in [*tree.glob("**/cgroup.procs")]:
                try:
                    pids.update(int(pid) for pid in file.read_text().split())
                except OSError:
                    continue  # the group was removed, or is a threaded one
        return pids - {0}

    def freeze(self) -> None:
        """Stop every process at once; returns when the last one stands.

        Raises:
            CgroupError: something still ran after ten seconds.
        """
        tree = self._freezer()
        _write(tree / "freezer.state", "FROZEN") if self._v1 else _write(tree / "cgroup.freeze", "1")
        deadline = time.monotonic() + 10
        while not self._stands():
            if time.monotonic() > deadline:
                raise CgroupError(f"{tree} did not freeze within 10 s: a process hangs in the kernel")
            time.sleep(_POLL_SECONDS)

    def thaw(self) -> None:
        """Let everything run on."""
        tree = self._freezer()
        if tree.exists():
            _write(tree / "freezer.state", "THAWED") if self._v1 else _write(tree / "cgroup.freeze", "0")

    @property
    def frozen(self) -> bool:
        """Whether it was told to stand still."""
        tree = self._freezer()
        if not tree.exists():
            return False
        if self._v1:
            return (tree / "freezer.self_freezing").read_text().strip() == "1"
        return (tree / "cgroup.freeze").read_text().strip() == "1"

    def kill(self, timeout: float = 15.0) -> None:
        """SIGKILL for all, frozen or not; returns when no process is left.

        Raises:
            CgroupError: a process did not end in `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while pids := self.processes():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.thaw()  # a frozen process dies when it thaws, before it runs another instruction
            if time.monotonic() > deadline:
                raise CgroupError(f"processes {sorted(pids)} of {self.path} do not end after SIGKILL: they hang in the kernel")
            time.sleep(_POLL_SECONDS)

    def remove(self) -> None:
        """Remove the groups, deepest first; the home's own group goes with its last node."""
        for mount in set(hierarchies().values()):
            tree = mount / self.path
            for directory, _, _ in os.walk(tree, topdown=False):
                _rmdir(Path(directory))
            for parent in list(tree.relative_to(mount).parents)[:-1]:
                _rmdir(mount / parent)

    @property
    def _v1(self) -> bool:
        return "freezer" in hierarchies()

    def _freezer(self) -> Path:
        mounts = hierarchies()
        return mounts.get("freezer", mounts.get("", Path("/sys/fs/cgroup"))) / self.path

    def _stands(self) -> bool:
        tree = self._freezer()
        if self._v1:
            return (tree / "freezer.state").read_text().strip() == "FROZEN"
        return "frozen 1" in (tree / "cgroup.events").read_text()

    def _trees(self) -> list[Path]:
        # Every hierarchy: a container that runc is just making may not have reached the freezer yet.
        return [mount / self.path for mount in set(hierarchies().values()) if (mount / self.path).exists()]

    def _make(self, mount: Path, unified: bool) -> None:
        parts = Path(self.path).parts
        for depth in range(1, len(parts) + 1):
            group = mount.joinpath(*parts[:depth])
            group.mkdir(exist_ok=True)
            if (group / "cpuset.cpus").exists() and not unified:
                _inherit_cpuset(group)
            if unified:
                _delegate(group.parent)
        _weigh(mount / parts[0])
        for name in ("daemons", "pods"):
            group = mount.joinpath(*parts, name)
            group.mkdir(exist_ok=True)
            if (group / "cpuset.cpus").exists() and not unified:
                _inherit_cpuset(group)
        if unified:
            _delegate(mount.joinpath(*parts))

    @staticmethod
    def _check(mounts: dict[str, Path], unified: bool) -> None:
        if not mounts:
            raise CgroupError(
                "no control groups are mounted: mount cgroup2 at /sys/fs/cgroup, or give the container that you are in its cgroups"
            )
        present = set(mounts) if not unified else set((mounts[""] / "cgroup.controllers").read_text().split())
        if missing := [name for name in _NEEDED if name not in present]:
            raise CgroupError(f"control groups without {', '.join(missing)}: kubelets need them; enable them in the kernel or mount them")


def _inherit_cpuset(group: Path) -> None:
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not (group / name).read_text().strip():
            (group / name).write_text((group.parent / name).read_text())


def _weigh(group: Path) -> None:
    # All pods of all nodes are one competitor of this machine's sessions: without more weight, trainers starve beside a busy shell.
    for name, weight in (("cpu.shares", "4096"), ("cpu.weight", "400")):
        if (group / name).exists():
            (group / name).write_text(weight)


def _delegate(group: Path) -> None:
    available = (group / "cgroup.controllers").read_text().split()
    _write(group / "cgroup.subtree_control", " ".join(f"+{name}" for name in available))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise CgroupError(f"cannot write {text!r} to {path}: {error.strerror}") from error


def _rmdir(group: Path) -> None:
    try:
        group.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY):
            raise
