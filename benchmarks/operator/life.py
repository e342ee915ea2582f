"""What the API server has to write in the life of one job: from its creation over an interruption to its end, step by step."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from benchmarks.operator import audit
from benchmarks.operator.api import Json, jobs_in, pods_in
from benchmarks.operator.hollow import container, machines, manifest, namespace, now, running
from benchmarks.operator.installation import Installation, Operator, installation
from benchmarks.operator.trainers import STEP, TOTAL_STEPS, Trainers, address, trainers
from benchmarks.report import Figure
from spottune_contract.exitcodes import ExitCode
from spottune_contract.labels import EPOCH, pod_name
from spottune_contract.progress import CommitView, LogView, Termination
from spottune_contract.version import CONTRACT_VERSION

NAME, SPACE = "one", "life"
QUIET = 2.0
"""Seconds without a write after which a step has come to its end."""
REST = 30.0
_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
STATUS = "update finetunejobs/status"


class Notices:
    """A real queue with EventBridge's messages."""

    def __init__(self, endpoint: str) -> None:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        self._sqs: Any = boto3.client("sqs", endpoint_url=endpoint, region_name="us-east-1", **keys)  # type: ignore[call-overload]
        self.url: str = self._sqs.create_queue(QueueName="notices")["QueueUrl"]
        self.arguments = ("--sqs-queue-url", self.url, "--sqs-endpoint", endpoint)

    def interrupt(self, instance: str) -> None:
        detail = {"instance-id": instance, "instance-action": "terminate"}
        body = {"source": "aws.ec2", "detail-type": "EC2 Spot Instance Interruption Warning", "time": now(), "region": "us-east-1"}
        self._sqs.send_message(QueueUrl=self.url, MessageBody=json.dumps(body | {"detail": detail}))


@contextmanager
def _notices() -> Iterator[Notices]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Notices(f"http://{host}:{port}")
    finally:
        server.stop()


@dataclass
class Life:
    """One job, and what its steps cost."""

    where: Installation
    hollow: Trainers
    steps: list[tuple[str, int, Counter[str]]] = field(default_factory=list)
    """Name, transitions, writes."""

    async def job(self) -> Json:
        return await self.where.api.call("GET", f"{jobs_in(SPACE)}/{NAME}")

    async def pod(self, epoch: int) -> Json:
        return await self.where.api.call("GET", f"{pods_in(SPACE)}/{pod_name(NAME, epoch)}", missing_ok=True)

    async def step(self, name: str, transitions: int, until: Callable[[Json, Json], object], epoch: int, begun: int) -> None:
        """Wait until job and pod are as they shall be, and for two seconds nothing more is written."""
        async with asyncio.timeout(60):
            while not until(await self.job(), await self.pod(epoch)):
                await asyncio.sleep(0.1)
            size = -1
            while size != (size := self._writes(begun)):
                await asyncio.sleep(QUIET)
        self.steps.append((name, transitions, self.where.audit.since(begun)))

    def _writes(self, begun: int) -> int:
        return audit.but_the_lease(self.where.audit.since(begun))

    async def created(self) -> None:
        begun = self.where.audit.size()
        await self.where.api.call("POST", jobs_in(SPACE), manifest(NAME))
        await self.step("created: attempt 1 begun, its pod placed", 2, lambda j, p: _placed(j, p), 1, begun)

    async def started(self, epoch: int) -> None:
        begun = self.where.audit.size()
        await self._set_status(epoch, running(address(epoch)))
        await self.step("container started", 1, lambda j, _: _condition(j, "Started"), epoch, begun)

    async def training(self, epoch: int, uid: str) -> None:
        begun = self.where.audit.size()
        self.hollow.tell({address(epoch): (uid, epoch)})
        await self.step("training", 1, lambda j, _: j["status"]["phase"] == "Running", epoch, begun)

    async def progressed(self, epoch: int, step: int) -> None:
        begun = self.where.audit.size()
        self.hollow.tell(step=step)
        await self.step("progress", 1, lambda j, _: j["status"]["step"] == step, epoch, begun)

    async def noticed(self, epoch: int, notices: Notices) -> None:
        begun = self.where.audit.size()
        node = (await self.pod(epoch))["spec"]["nodeName"]
        machine = (await self.where.api.call("GET", f"/api/v1/nodes/{node}"))["spec"]["providerID"].rpartition("/")[2]
        await asyncio.to_thread(notices.interrupt, machine)
        await self.step("preempted with notice: draining", 1, lambda _, p: "deletionTimestamp" in p["metadata"], epoch, begun)

    async def ended(self, epoch: int, code: ExitCode, *, step: int, last: bool) -> None:
        begun = self.where.audit.size()
        commit = CommitView(slot=5 * epoch + 1, epoch=epoch, step=step, reason="final" if last else "notice")
        log = LogView(head_slot=5 * epoch + 1, max_epoch=epoch, last_commit=commit)
        word = Termination(
            contract=CONTRACT_VERSION,
            epoch=epoch,
            exit_code=int(code),
            reason=code.name,
            message="",
            step=step,
            total_steps=TOTAL_STEPS,
            log=log,
            first_step_at=1.0,
        )
        gone = {"exitCode": int(code), "reason": "Completed", "startedAt": now(), "finishedAt": now(), "message": word.model_dump_json()}
        phase = "Succeeded" if last else "Failed"
        await self._set_status(epoch, {"phase": phase, "containerStatuses": [container({"terminated": gone}, started=False)]})
        if last:
            await self.step("completed", 1, lambda j, _: j["status"]["phase"] == "Succeeded", epoch, begun)
            return
        await self.where.api.call("DELETE", f"{pods_in(SPACE)}/{pod_name(NAME, epoch)}", {"gracePeriodSeconds": 0}, missing_ok=True)
        name = f"replaced: attempt {epoch} accounted, attempt {epoch + 1} begun, its pod placed"
        await self.step(name, 3, lambda j, p: _placed(j, p), epoch + 1, begun)

    async def _set_status(self, epoch: int, status: Json) -> None:
        await self.where.api.call("PATCH", f"{pods_in(SPACE)}/{pod_name(NAME, epoch)}/status", {"status": status})


def _placed(job: Json, pod: Json) -> bool:
    here = pod.get("spec", {}).get("nodeName")
    return bool(here) and job.get("status", {}).get("node") == here and pod["metadata"]["labels"][EPOCH] == str(job["status"]["attempt"])


def _condition(job: Json, kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in job["status"].get("conditions", ()))


async def _live(where: Installation, hollow: Trainers, notices: Notices, rest: float) -> Sequence[Figure]:
    await namespace(where.api, SPACE)
    operator = Operator(where, "--trainer-port", str(hollow.port), "--poll-seconds", "1", *notices.arguments, environ=_KEYS)
    life = Life(where, hollow)
    try:
        await operator.await_leading()
        await life.created()
        uid = (await life.job())["metadata"]["uid"]
        await life.started(1)
        await life.training(1, uid)
        await asyncio.sleep(10)
        await life.progressed(1, STEP + 7)
        await life.noticed(1, notices)
        await life.ended(1, ExitCode.YIELDED, step=STEP + 8, last=False)
        await life.started(2)
        await life.training(2, uid)
        begun = where.audit.size()
        await asyncio.sleep(rest)
        idle = where.audit.since(begun)
        await life.ended(2, ExitCode.DONE, step=TOTAL_STEPS, last=True)
    finally:
        operator.kill()
    return _figures(life.steps, idle, rest)


def _figures(steps: Sequence[tuple[str, int, Counter[str]]], idle: Counter[str], rest: float) -> Sequence[Figure]:
    needed = [(name, transitions, audit.beside_pods_and_events(writes)) for name, transitions, writes in steps]
    total, transitions = sum(writes for *_, writes in needed), sum(count for _, count, _ in needed)
    told = "; ".join(f"{name} {writes}" for name, _, writes in needed)
    return [
        Figure("writes per transition in the life of a job", total / transitions, "", goal=1, detail=f"{total} for {transitions}: {told}"),
        Figure("the most in one step, to its transitions", max(w / t for _, t, w in needed), "", goal=1),
        Figure("writes while the job trains and nothing changes", audit.but_the_lease(idle), "", goal=0, detail=f"in {rest:g} s"),
    ]


async def _measure(rest: float) -> Sequence[Figure]:
    with trainers() as hollow, _notices() as notices:
        async with installation() as where, machines(where, 2):
            return await _live(where, hollow, notices, rest)


def measure(quick: bool) -> Sequence[Figure]:
    """One job, with half a minute of rest in between; if `quick`, three seconds."""
    return asyncio.run(_measure(3.0 if quick else REST))
