"""Hundreds of notices within seconds, while thousands of jobs train: how soon each trainer is told, and how often.

The notices come by SQS; real operator, API server and etcd, hollow machines and pods, as in `benchmarks.operator`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import boto3

from benchmarks.operator.hollow import Kubelets, crowd, instance, machine_of
from benchmarks.operator.installation import free_port, installation, percentile
from benchmarks.operator.latency import operating
from benchmarks.operator.trainers import Trainers, address, trainers
from benchmarks.report import Figure
from localcloud import ec2_events

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
SECONDS = 5.0
"""All notices come within this time."""
BATCH = 10


@asynccontextmanager
async def queue() -> AsyncIterator[tuple[SQSClient, str, str]]:
    """A client of an SQS server of its own, with the URL of a queue and the server's endpoint."""
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        client = boto3.client("sqs", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
        give_up = time.monotonic() + 30
        while True:
            try:
                url = client.create_queue(QueueName="storm", Attributes={"VisibilityTimeout": "20"})["QueueUrl"]
                break
            except Exception:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.2)
        yield client, url, endpoint
    finally:
        server.kill()
        server.wait()


def _send(client: SQSClient, url: str, numbers: Sequence[int], alone: int) -> None:
    now = datetime.now(UTC)
    events = [
        ec2_events.interruption_warning(
            f"storm-{n}", instance(machine_of(n, alone)), "us-east-1a", "terminate", now + ec2_events.NOTICE, now
        )
        for n in numbers
    ]
    client.send_message_batch(
        QueueUrl=url, Entries=[{"Id": str(n), "MessageBody": json.dumps(e)} for n, e in zip(numbers, events, strict=True)]
    )


async def _storm(client: SQSClient, url: str, notices: int) -> dict[str, float]:
    """Send them all. Returns when each trainer's notice was sent (wall clock seconds), by its address."""
    began, sent = time.monotonic(), dict[str, float]()
    for first in range(0, notices, BATCH):
        await asyncio.sleep(max(0.0, began + SECONDS * first / notices - time.monotonic()))
        numbers = range(first, min(first + BATCH, notices))
        sent |= dict.fromkeys((address(number) for number in numbers), time.time())
        await asyncio.to_thread(_send, client, url, numbers, notices)
    return sent


async def _told(hollow: Trainers, sent: dict[str, float], timeout: float) -> dict[str, tuple[int, float]]:
    give_up = time.monotonic() + timeout
    while True:
        notices: dict[str, tuple[int, float]] = (await asyncio.to_thread(hollow.tell))["notices"]
        if sent.keys() <= notices.keys() or time.monotonic() > give_up:
            return notices
        await asyncio.sleep(0.5)


async def _measure(count: int, notices: int, settle: float) -> Sequence[Figure]:
    os.environ.update(AWS)
    with trainers() as hollow:
        async with queue() as (client, url, endpoint), installation() as where, crowd(where, hollow, count, alone=notices):
            flags = ("--sqs-queue-url", url, "--sqs-endpoint", endpoint)
            async with Kubelets.at_work(where.api, hollow, count) as kubelets, operating(where, hollow, *flags):
                await asyncio.sleep(settle)
                if kubelets.ended:
                    raise RuntimeError(
                        f"{len(kubelets.ended)} pods were ended before the first notice: this machine is too slow for the load"
                    )
                sent = await _storm(client, url, notices)
                await _told(hollow, sent, 120)
                await asyncio.sleep(10)
                told = await _told(hollow, sent, 0)
    seconds = [told[ip][1] - at for ip, at in sent.items() if ip in told] or [float("inf")]
    ends = [kubelets.ended[ip] - at for ip, at in sent.items() if ip in kubelets.ended] or [float("inf")]
    what = f"{notices} notices within {SECONDS:g} s on {count:,} jobs"
    return [
        Figure(
            "storm_notice_to_signal_p99_s", percentile(seconds, 0.99), "s", 5.0, detail=f"{what}; median {percentile(seconds, 0.5):.1f} s"
        ),
        Figure(
            "storm_notice_to_sigterm_p99_s",
            percentile(ends, 0.99),
            "s",
            None,
            detail=f"pod deleted: the second signal; median {percentile(ends, 0.5):.1f} s, {len(sent) - len(ends)} not within 120 s",
        ),
        Figure("storm_unanswered", float(len(sent.keys() - told.keys())), "", 0.0, detail="trainers that were not told within 120 s"),
        Figure(
            "storm_told_twice", float(sum(told[ip][0] > 1 for ip in sent if ip in told)), "", 0.0, detail="trainers told more than once"
        ),
    ]


def measure(quick: bool) -> Sequence[Figure]:
    """500 notices on 5,000 jobs; if `quick`, 20 on 100."""
    return asyncio.run(_measure(100, 20, 8) if quick else _measure(5000, 500, 40))
