"""Daemons are started once, found again, stopped for sure, and never mistaken for another process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from localcloud import process
from localcloud.home import Home
from localcloud.process import Process, Service, ServiceError

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import os, pathlib, signal, time; signal.signal(15, signal.SIG_IGN); pathlib.Path('deaf').touch(); time.sleep(600)",
)
WITH_CHILD = (
    sys.executable,
    "-c",
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)",
)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_service_is_started_once(home: Home) -> None:
    service = Service(home, "sleeper", SLEEPER)
    first = service.start()
    assert service.start() == first
    assert process.services(home) == {"sleeper": first}


def test_a_changed_command_replaces_the_running_one(home: Home) -> None:
    first = Service(home, "sleeper", SLEEPER).start()
    second = Service(home, "sleeper", SLEEPER, env={"LEVEL": "2"}).start()
    assert not first.alive()
    assert second.environ()["LEVEL"] == "2"


def test_it_inherits_nothing_but_the_bare_minimum(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SHELL", "x")
    environ = Service(home, "sleeper", SLEEPER).start().environ()
    assert "SECRET_OF_THE_SHELL" not in environ
    assert environ["PATH"] == os.environ["PATH"]


def test_a_service_that_ends_while_starting_shows_its_last_words(home: Home) -> None:
    service = Service(home, "broken", (sys.executable, "-c", "raise SystemExit('the disk is upside down')"), ready=lambda: False)
    with pytest.raises(ServiceError, match="the disk is upside down"):
        service.start()


def test_a_service_that_never_gets_ready_is_named_with_the_time_it_had(home: Home) -> None:
    with pytest.raises(ServiceError, match="sleeper: not ready after 0 s"):
        Service(home, "sleeper", SLEEPER, ready=lambda: False, ready_timeout=0.1).start()


def test_a_program_that_is_not_there_is_named(home: Home) -> None:
    with pytest.raises(ServiceError, match="cannot start /no/such/program"):
        Service(home, "absent", ("/no/such/program",)).start()


def test_a_deaf_service_is_killed(home: Home) -> None:
    service = Service(home, "deaf", STUBBORN, stop_timeout=0.2)
    running = service.start()
    wait_for(home.root / "deaf")
    service.stop()
    service.stop()
    assert not running.alive()


def test_a_stopped_process_ends_too(home: Home) -> None:
    service = Service(home, "sleeper", SLEEPER)
    running = service.start()
    running.signal(signal.SIGSTOP)
    service.stop()
    assert not running.alive()


def test_children_end_with_their_service(home: Home) -> None:
    service = Service(home, "family", WITH_CHILD)
    parent = service.start()
    deadline = time.monotonic() + 20
    while len(family := list(process.marked(home))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    service.stop()
    assert [p for p in (parent, *family) if p.alive()] == []


def test_a_service_without_its_pid_file_is_found_by_its_marks(home: Home) -> None:
    """As after our death between the start and the PID file."""
    service = Service(home, "sleeper", SLEEPER)
    running = service.start()
    (home.run / "sleeper.pid").unlink()
    assert service.start() == running
    service.stop()
    assert not running.alive()


def test_a_reused_pid_is_never_signalled(home: Home) -> None:
    bystander = subprocess.Popen(SLEEPER)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        (home.run / "sleeper.pid").write_text(json.dumps({"pid": bystander.pid, "started": 1, "boot": boot}))
        service = Service(home, "sleeper", SLEEPER)
        assert service.running() is None
        service.stop()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_pid_file_of_an_earlier_boot_or_half_written_counts_for_nothing(home: Home) -> None:
    us = Process.of(os.getpid())
    assert us is not None
    for content in (json.dumps({"pid": us.pid, "started": us.started, "boot": "another"}), '{"pid": 1', "{}", ""):
        (home.run / "sleeper.pid").write_text(content)
        assert process.find(home, "sleeper") is None


def test_stop_all_ends_every_marked_process_of_this_home_only(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path)
    theirs = Service(other, "sleeper", SLEEPER).start()
    ours = [Service(home, name, SLEEPER).start() for name in ("a", "b")]
    (home.run / "b.pid").unlink()
    process.stop_all(home)
    process.stop_all(home)
    assert [p.alive() for p in ours] == [False, False]
    assert theirs.alive()
    process.stop_all(other)


def test_a_shell_that_only_exports_the_home_is_left_alone(home: Home) -> None:
    shell = subprocess.Popen(SLEEPER, env=os.environ | {"SPOTTUNE_LOCALCLOUD_HOME": str(home.root)})
    try:
        process.stop_all(home)
        assert shell.poll() is None
    finally:
        shell.kill()
        shell.wait()


def test_a_port_is_free_below_the_ephemeral_range_and_stays_the_same(home: Home) -> None:
    port = home.port("x")
    assert home.port("x") == port
    assert home.port("y") != port
    assert port < 32768
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


def test_callers_at_the_same_time_get_different_ports_that_stay(home: Home) -> None:
    names = [f"service-{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        ports = list(pool.map(home.port, names))
    assert len(set(ports)) == len(names)
    assert [home.port(name) for name in names] == ports


def test_a_secret_is_made_once_and_readable_by_its_owner_only(home: Home) -> None:
    assert home.secret("s") == home.secret("s")
    assert (home.root / "s").stat().st_mode & 0o777 == 0o600
