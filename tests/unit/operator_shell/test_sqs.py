"""The queue reader against a real SQS server over HTTP (moto): delete after handling, leave what failed, survive an outage."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from mypy_boto3_sqs import SQSClient

from spottune_contract import failpoint
from spottune_operator.notices.sqs import NoticeQueue, QueueSettings, Rejected, TooEarly, connect


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def sqs(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> SQSClient:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return boto3.client("sqs", endpoint_url=endpoint, region_name="us-east-1")


@pytest.fixture
def queue_url(sqs: SQSClient) -> str:
    """A queue that redelivers after a second and gives up after two deliveries."""
    name = f"q-{secrets.token_hex(4)}"
    dead = sqs.create_queue(QueueName=f"{name}-dlq")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = f'{{"deadLetterTargetArn": "{arn}", "maxReceiveCount": 2}}'
    attributes = {"VisibilityTimeout": "1", "RedrivePolicy": redrive}
    return sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]  # type: ignore[arg-type]


class Reader:
    """A running `NoticeQueue` whose handler is told what to do with each body."""

    def __init__(
        self,
        endpoint: str,
        url: str,
        wait_seconds: int = 1,
        handle_seconds: float = 2.0,
        wanted: bool = True,
        client: SQSClient | None = None,
    ) -> None:
        self.wanted = wanted
        self.handled: list[str] = []
        self.up: list[bool] = []
        self.news = asyncio.Event()
        client = client or connect(QueueSettings(url, "us-east-1", endpoint))
        limits = {"wait_seconds": wait_seconds, "handle_seconds": handle_seconds}
        self.queue = NoticeQueue(client, url, self._handle, up=self._up, wanted=lambda: self.wanted, **limits)  # type: ignore[arg-type]
        self.queue.start()

    async def _handle(self, body: str) -> None:
        self.handled.append(body)
        self.news.set()
        if body.startswith("poison"):
            raise Rejected("not an event")
        if body == "too early once" and self.handled.count(body) == 1:
            raise TooEarly("not known yet")
        self.wanted = self.wanted and body != "ends being wanted"
        if body.startswith("slow"):
            await asyncio.sleep(60)
        if body == "fails once" and self.handled.count(body) == 1:
            raise RuntimeError("API server away")

    def _up(self, answering: bool) -> None:
        self.up.append(answering)
        self.news.set()

    async def until(self, condition: str) -> None:
        """Until the expression holds; it is evaluated whenever something happened."""
        async with asyncio.timeout(20):
            while not eval(condition, {"r": self}):
                self.news.clear()
                await self.news.wait()


async def _emptied(sqs: SQSClient, url: str) -> bool:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    async with asyncio.timeout(20):
        while True:
            attributes = (await asyncio.to_thread(sqs.get_queue_attributes, QueueUrl=url, AttributeNames=names))["Attributes"]  # type: ignore[arg-type]
            if all(value == "0" for value in attributes.values()):
                return True
            await asyncio.sleep(0.05)


async def test_a_handled_message_is_deleted(endpoint: str, sqs: SQSClient, queue_url: str) -> None:
    reader = Reader(endpoint, queue_url)
    sqs.send_message(QueueUrl=queue_url, MessageBody="one")
    await reader.until("'one' in r.handled")
    assert await _emptied(sqs, queue_url)
    assert reader.up == [True]
    reader.queue.stop()


@pytest.mark.parametrize("body", ["fails once", "too early once"])
async def test_a_message_whose_handling_failed_comes_again(endpoint: str, sqs: SQSClient, queue_url: str, body: str) -> None:
    reader = Reader(endpoint, queue_url)
    sqs.send_message(QueueUrl=queue_url, MessageBody=body)
    await reader.until("len(r.handled) == 2")
    assert await _emptied(sqs, queue_url)
    reader.queue.stop()


async def test_a_message_that_takes_its_time_keeps_none_that_comes_later_waiting(endpoint: str, sqs: SQSClient, queue_url: str) -> None:
    reader = Reader(endpoint, queue_url, handle_seconds=60)
    sqs.send_message(QueueUrl=queue_url, MessageBody="slow")
    await reader.until("r.handled == ['slow']")
    sqs.send_message(QueueUrl=queue_url, MessageBody="good")
    await reader.until("'good' in r.handled")
    reader.queue.stop()


async def test_f69_poison_goes_to_the_dead_letter_queue_and_blocks_nothing(endpoint: str, sqs: SQSClient, queue_url: str) -> None:
    reader = Reader(endpoint, queue_url)
    sqs.send_message(QueueUrl=queue_url, MessageBody="poison")
    sqs.send_message(QueueUrl=queue_url, MessageBody="good")
    await reader.until("'good' in r.handled and r.handled.count('poison') == 2")
    async with asyncio.timeout(20):
        while not (dead := await asyncio.to_thread(sqs.receive_message, QueueUrl=f"{queue_url}-dlq")).get("Messages"):
            await asyncio.sleep(0.05)
    assert dead["Messages"][0]["Body"] == "poison"
    reader.queue.stop()


async def test_a_message_that_takes_too_long_holds_up_no_other(endpoint: str, sqs: SQSClient, queue_url: str) -> None:
    reader = Reader(endpoint, queue_url, handle_seconds=0.5)
    for body in ("slow", "good"):
        sqs.send_message(QueueUrl=queue_url, MessageBody=body)
    await reader.until("'good' in r.handled and 'slow' in r.handled")
    reader.queue.stop()


async def test_messages_are_left_for_another_reader_while_they_are_not_wanted(endpoint: str, sqs: SQSClient, queue_url: str) -> None:
    standby, leader = Reader(endpoint, queue_url, wanted=False), Reader(endpoint, queue_url)
    for body in "abc":
        sqs.send_message(QueueUrl=queue_url, MessageBody=body)
    await leader.until("sorted(r.handled) == ['a', 'b', 'c']")
    assert standby.handled == standby.up == []
    leader.queue.stop()
    standby.wanted = True
    sqs.send_message(QueueUrl=queue_url, MessageBody="next")
    await standby.until("'next' in r.handled")
    standby.queue.stop()


async def test_a_reader_that_is_not_wanted_any_more_deletes_nothing(endpoint: str, sqs: SQSClient, queue_url: str) -> None:
    """It was stopped in the middle of a message; who reads now shall have it."""
    old = Reader(endpoint, queue_url)
    sqs.send_message(QueueUrl=queue_url, MessageBody="ends being wanted")
    await old.until("r.handled and not r.wanted")
    new = Reader(endpoint, queue_url)
    await new.until("r.handled == ['ends being wanted']")
    old.queue.stop()
    new.queue.stop()


async def test_f70_an_outage_is_reported_and_its_end_too(endpoint: str, sqs: SQSClient, queue_url: str) -> None:
    attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["VisibilityTimeout"])["Attributes"]
    sqs.delete_queue(QueueUrl=queue_url)
    reader = Reader(endpoint, queue_url)
    await reader.until("r.up == [False]")
    sqs.create_queue(QueueName=queue_url.rpartition("/")[2], Attributes=attributes)  # type: ignore[arg-type]
    sqs.send_message(QueueUrl=queue_url, MessageBody="after")
    await reader.until("'after' in r.handled")
    assert reader.up == [False, True]
    reader.queue.stop()


async def test_a_failure_between_handling_and_deleting_brings_the_message_again_and_ends_no_reading(
    endpoint: str, sqs: SQSClient, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failpoint, "_armed", {"O8": ("raise", 1)})
    monkeypatch.setattr(failpoint, "_hits", {})
    reader = Reader(endpoint, queue_url)
    sqs.send_message(QueueUrl=queue_url, MessageBody="one")
    await reader.until("len(r.handled) == 2")
    assert await _emptied(sqs, queue_url)
    reader.queue.stop()


@pytest.mark.parametrize("refusal", ["call", "entry"])
async def test_what_cannot_be_deleted_comes_again_and_ends_no_reading(
    endpoint: str, sqs: SQSClient, queue_url: str, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    client = connect(QueueSettings(queue_url, "us-east-1", endpoint))
    delete, refused = client.delete_message_batch, list[Any]()

    def refuses_once(**arguments: Any) -> Any:
        if refused:
            return delete(**arguments)
        refused.append(arguments)
        if refusal == "call":
            raise OSError("connection reset")
        return {"Successful": [], "Failed": [{"Id": "0", "SenderFault": False, "Code": "InternalError", "Message": "later"}]}

    monkeypatch.setattr(client, "delete_message_batch", refuses_once)
    reader = Reader(endpoint, queue_url, client=client)
    sqs.send_message(QueueUrl=queue_url, MessageBody="one")
    await reader.until("len(r.handled) == 2")
    assert await _emptied(sqs, queue_url)
    reader.queue.stop()


async def test_slow_messages_of_a_batch_share_their_time_so_that_the_handled_ones_are_deleted_before_they_come_again(
    endpoint: str, sqs: SQSClient, queue_url: str
) -> None:
    bodies = ["slow 1", "slow 2", "slow 3", "fast"]
    sqs.send_message_batch(QueueUrl=queue_url, Entries=[{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies)])
    reader = Reader(endpoint, queue_url, handle_seconds=0.5)
    await reader.until("all(r.handled.count(f'slow {n}') == 2 for n in (1, 2, 3))")
    assert reader.handled.count("fast") == 1
    reader.queue.stop()


async def test_an_error_of_an_unknown_kind_in_the_client_is_an_outage_and_ends_no_reading(
    endpoint: str, sqs: SQSClient, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(QueueSettings(queue_url, "us-east-1", endpoint))
    receive, raised = client.receive_message, list[Exception]()

    def fails_once(**arguments: Any) -> Any:
        if not raised:
            raised.append(OSError("too many open files"))
            raise raised[0]
        return receive(**arguments)

    monkeypatch.setattr(client, "receive_message", fails_once)
    reader = Reader(endpoint, queue_url, client=client)
    sqs.send_message(QueueUrl=queue_url, MessageBody="one")
    await reader.until("'one' in r.handled")
    assert reader.up == [False, True]
    reader.queue.stop()
