"""Daemons that outlive us: started once, found again, stopped for sure, never mistaken for another process.

A service is known by its name within a `Home`. Its PID file holds the process's start time and the machine's boot id as well, so a reused PID
is never signalled. Should we die between the start and the PID file, the next call finds the process by the marks in its environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from localcloud.home import HOME_VARIABLE, Home, write_private

SERVICE_VARIABLE = "SPOTTUNE_LOCALCLOUD_SERVICE"
DIGEST_VARIABLE = "SPOTTUNE_LOCALCLOUD_DIGEST"
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_POLL_SECONDS = 0.02

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Daemons of this very process: they must be reaped, or they would stay as zombies for as long as we live."""


class ServiceError(RuntimeError):
    """A service did not start, did not become ready or did not stop; the message shows the end of its log."""


@dataclass(frozen=True)
class Process:
    """One process, told apart from a later one with the same PID by its start time (clock ticks since boot)."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The living process `pid`, or None if there is none (a zombie is none)."""
        if pid in _children:
            _children[pid].poll()
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = stat[stat.rindex(")") + 2 :].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def signal(self, number: int) -> None:
        """Send a signal to the process if it still lives."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def environ(self) -> dict[str, str]:
        """Its environment at the start; empty once it is gone."""
        try:
            raw = Path(f"/proc/{self.pid}/environ").read_bytes()
        except OSError:
            return {}
        return dict(item.partition("=")[::2] for item in raw.decode(errors="replace").split("\0") if "=" in item)


@dataclass(frozen=True)
class Service:
    """A daemon of a home.

    Attributes:
        home: whose service it is.
        name: unique within the home; names the PID file `run/NAME.pid` and the log `logs/NAME.log`.
        command: the program and its arguments. Another command at the next `start` means a restart.
        env: added to a small fixed environment (PATH, HOME, locale and our marks); nothing else is inherited.
        ready: called until it returns True; None means that a started process is a ready one.
        ready_timeout: seconds until `start` gives up.
        stop_timeout: seconds between SIGTERM and SIGKILL.
        cwd: working directory; the home's root if None.
    """

    home: Home
    name: str
    command: Sequence[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], bool] | None = None
    ready_timeout: float = 60.0
    stop_timeout: float = 10.0
    cwd: Path | None = None

    @property
    def log(self) -> Path:
        return self.home.logs / f"{self.name}.log"

    @property
    def digest(self) -> str:
        """What would be started: another digest is another service of the same name."""
        text = json.dumps([[str(word) for word in self.command], dict(self.env), str(self.cwd)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def running(self) -> Process | None:
        """The living process of this service, whoever started it."""
        return find(self.home, self.name)

    def start(self) -> Process:
        """Start it unless it runs already with the same command; wait until it is ready.

        Raises:
            ServiceError: it ended, or was not ready in time.
        """
        process = self.spawn()
        self.await_ready()
        return process

    def spawn(self) -> Process:
        """Start it unless it runs already with the same command, without waiting for readiness."""
        process = self.running()
        if process is not None and process.environ().get(DIGEST_VARIABLE) != self.digest:
            self.stop()
            process = None
        return process or self._launch()

    def await_ready(self) -> None:
        """Wait until `ready` says so.

        Raises:
            ServiceError: it does not run, it ended, or was not ready in time.
        """
        process = self.running()
        deadline = time.monotonic() + self.ready_timeout
        while process is not None and self.ready is not None and not self.ready():
            if not process.alive():
                process = None
            elif time.monotonic() > deadline:
                raise self._failure(f"not ready after {self.ready_timeout:.0f} s")
            else:
                time.sleep(_POLL_SECONDS)
        if process is None or not process.alive():
            raise self._failure("ended while starting")

    def stop(self) -> None:
        """End it and its process group; nothing happens if it does not run."""
        stop(self.home, self.name, self.stop_timeout)

    def _launch(self) -> Process:
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        marks = {HOME_VARIABLE: str(self.home.root), SERVICE_VARIABLE: self.name, DIGEST_VARIABLE: self.digest}
        command = [str(word) for word in self.command]
        with self.log.open("ab") as log:
            log.write(f"--- {time.strftime('%Y-%m-%dT%H:%M:%S%z')} {' '.join(command)}\n".encode())
            log.flush()
            try:
                child = subprocess.Popen(
                    command,
                    env=inherited | dict(self.env) | marks,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.cwd or self.home.root,
                    start_new_session=True,
                )
            except OSError as error:
                raise ServiceError(f"{self.name}: cannot start {command[0]}: {error}") from error
        _children[child.pid] = child
        process = Process.of(child.pid)
        # The kernel shows the new environment a moment after exec; whoever looks for the marks before would not find them.
        while process is not None and process.alive() and SERVICE_VARIABLE not in process.environ():
            time.sleep(0.001)
        if process is None:
            raise self._failure(f"ended at once with exit code {child.returncode}")
        write_private(_pidfile(self.home, self.name), json.dumps({"pid": process.pid, "started": process.started, "boot": _boot_id()}))
        return process

    def _failure(self, what: str) -> ServiceError:
        return ServiceError(f"{self.name}: {what}. The end of {self.log}:\n{tail(self.log)}")


def tail(path: Path, lines: int = 15, width: int = 400) -> str:
    """The last lines of a log, each cut to `width` characters; a note if there is none."""
    if not path.exists():
        return "  (no log)"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64 * 1024))
        text = file.read().decode(errors="replace")
    return "\n".join(f"  {line[:width]}" for line in text.splitlines()[-lines:]) or "  (empty)"


def find(home: Home, name: str) -> Process | None:
    """The living process of the service `name` of this home: by its PID file, else by the marks in its environment."""
    pidfile = _pidfile(home, name)
    try:
        record = json.loads(pidfile.read_text())
        process = Process(record["pid"], record["started"])
        if record["boot"] == _boot_id() and process.alive():
            return process
    except (FileNotFoundError, ValueError, KeyError):
        pass
    for process in marked(home):
        # Children inherit the marks; the service itself leads its session.
        if process.environ().get(SERVICE_VARIABLE) == name and _session(process.pid) == process.pid:
            write_private(pidfile, json.dumps({"pid": process.pid, "started": process.started, "boot": _boot_id()}))
            return process
    return None


def stop(home: Home, name: str, timeout: float = 10.0) -> None:
    """End the service `name` with SIGTERM, after `timeout` seconds with SIGKILL, and what is left of its process group."""
    process = find(home, name)
    if process is not None:
        # By identity, one by one: once the leader is gone its group's id could already be somebody else's.
        family = [other for other in marked(home) if _session(other.pid) == process.pid and other != process]
        _end([process], timeout)
        _end(family, 0)
    _pidfile(home, name).unlink(missing_ok=True)


def services(home: Home) -> dict[str, Process]:
    """All living services of this home by name."""
    names = {path.stem for path in home.run.glob("*.pid")} | {p.environ().get(SERVICE_VARIABLE, "") for p in marked(home)}
    found = {name: find(home, name) for name in sorted(names - {""})}
    return {name: process for name, process in found.items() if process is not None}


def marked(home: Home) -> Iterator[Process]:
    """Every living process, but us, that carries this home's mark: services and their children."""
    mark = f"{HOME_VARIABLE}={home.root}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environ = (entry / "environ").read_bytes()
        except OSError:
            continue
        items = environ.split(b"\0")
        # A user may have exported the home in a shell: only what we started bears the service's name too.
        if mark in items and any(item.startswith(f"{SERVICE_VARIABLE}=".encode()) for item in items):
            process = Process.of(int(entry.name))
            if process is not None:
                yield process


def stop_all(home: Home, timeout: float = 10.0) -> None:
    """End every process that carries this home's mark, then forget the PID files. For `down`, also after a crash."""
    _end(list(marked(home)), timeout)
    for leftover in marked(home):  # born while the others were ending
        leftover.signal(signal.SIGKILL)
    for pidfile in home.run.glob("*.pid"):
        pidfile.unlink(missing_ok=True)


def _end(processes: Sequence[Process], timeout: float) -> None:
    for process in processes:
        process.signal(signal.SIGCONT)
        process.signal(signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while any(process.alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    for process in processes:
        process.signal(signal.SIGKILL)
    for process in processes:
        while process.alive():
            if time.monotonic() > deadline + 30:
                raise ServiceError(
                    f"process {process.pid} does not end after SIGKILL: it hangs in the kernel (see /proc/{process.pid}/stack)"
                )
            time.sleep(_POLL_SECONDS)


def _pidfile(home: Home, name: str) -> Path:
    return home.run / f"{name}.pid"


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
