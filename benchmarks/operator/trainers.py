"""All trainers' HTTP sides in one process: it answers `/progress` for whichever loopback address was asked, and counts.

Started as `python -m benchmarks.operator.trainers PORT`; 127.0.0.1 itself is where it is told what to answer and asked what it counted.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from spottune_contract.progress import CommitView, LogView, Progress, TrainerPhase
from spottune_contract.version import CONTRACT_VERSION

Json = dict[str, Any]

STEP = 10
TOTAL_STEPS = 1_000_000


def address(number: int) -> str:
    """The loopback address of the trainer with this number, from 0."""
    return f"127.{20 + number // 62500}.{number // 250 % 250}.{number % 250 + 2}"


def report(uid: str, epoch: int, step: int) -> Progress:
    """A trainer at work that has committed its tenth step."""
    commit = CommitView(slot=5 * epoch, epoch=epoch, step=STEP, reason="interval")
    return Progress(
        contract=CONTRACT_VERSION,
        job_uid=uid,
        epoch=epoch,
        writer="abcdefgh",
        phase=TrainerPhase.TRAINING,
        step=step,
        total_steps=TOTAL_STEPS,
        loss=1.5,
        step_seconds=1.0,
        resumed_from_step=0,
        started_at=1.0,
        claimed_at=1.0,
        first_step_at=1.0,
        log=LogView(head_slot=5 * epoch, max_epoch=epoch, last_commit=commit),
    )


@dataclass
class Counts:
    """What was asked of the trainers, by address."""

    first: float = 0.0
    last: float = 0.0
    requests: int = 0
    asked: dict[str, float] = field(default_factory=dict)
    gap: float = 0.0
    """Longest time between two questions to the same trainer."""

    def note(self, ip: str, now: float) -> None:
        self.first, self.last, self.requests = self.first or now, now, self.requests + 1
        if ip in self.asked:
            self.gap = max(self.gap, now - self.asked[ip])
        self.asked[ip] = now

    def told(self, now: float) -> Json:
        """The longest gap counts the time since each trainer was asked last."""
        waiting = max((now - at for at in self.asked.values()), default=0.0)
        return {"requests": self.requests, "trainers": len(self.asked), "gap": max(self.gap, waiting), "seconds": now - self.first}


class Hollow:
    """Every trainer makes one step a second once `moving`."""

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[str, int]] = {}
        self.moving_since = 0.0
        self.step = STEP
        self.counts = Counts()
        self.notices: dict[str, tuple[int, float]] = {}
        """By address: how often a trainer was told that its machine goes, and when first (wall clock seconds)."""

    async def progress(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        ip = request.transport.get_extra_info("sockname")[0]
        self.counts.note(ip, time.monotonic())
        if ip not in self.jobs:
            return web.Response(status=503)
        uid, epoch = self.jobs[ip]
        step = self.step + (int(time.monotonic() - self.moving_since) + 1 if self.moving_since else 0)
        return web.Response(body=report(uid, epoch, step).model_dump_json().encode(), content_type="application/json")

    async def checkpoint(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        ip = request.transport.get_extra_info("sockname")[0]
        times, first = self.notices.get(ip, (0, time.time()))
        self.notices[ip] = times + 1, first
        return web.json_response({"accepted": True}, status=202)

    async def tell(self, request: web.Request) -> web.Response:
        """New jobs by address, and whether the trainers go on."""
        told = await request.json()
        self.jobs |= {ip: (uid, epoch) for ip, (uid, epoch) in told.get("jobs", {}).items()}
        self.step = told.get("step", self.step)
        if "moving" in told:
            self.moving_since = time.monotonic() if told["moving"] else 0.0
            self.counts = Counts()
        return web.json_response(self.counts.told(time.monotonic()) | {"notices": self.notices})


@dataclass(frozen=True)
class Trainers:
    """The process, seen from outside."""

    port: int

    def tell(self, jobs: Mapping[str, tuple[str, int]] | None = None, **told: object) -> Json:
        """`step`: how far all of them are. `moving`: do they make steps; said anew, what was counted is forgotten. Returns what was counted so far."""
        body = json.dumps({"jobs": dict(jobs or {}), **told}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/tell", data=body, timeout=30) as response:
            counted: Json = json.load(response)
        return counted


@contextmanager
def trainers() -> Iterator[Trainers]:
    """The process on a free port, listening."""
    with socket.socket() as listening:
        # All of 127.0.0.0/8, and nothing that comes from another interface.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        listening.bind(("0.0.0.0", 0))
        listening.listen(1024)
        command = [sys.executable, "-m", "benchmarks.operator.trainers", str(listening.fileno())]
        process = subprocess.Popen(command, pass_fds=[listening.fileno()])
        try:
            yield Trainers(listening.getsockname()[1])
        finally:
            process.kill()
            process.wait()


def _main(descriptor: int) -> None:
    hollow = Hollow()
    app = web.Application(client_max_size=2**26)
    app.add_routes([web.get("/progress", hollow.progress), web.post("/checkpoint", hollow.checkpoint), web.post("/tell", hollow.tell)])
    web.run_app(app, sock=socket.socket(fileno=descriptor), print=lambda _: None, access_log=None)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
