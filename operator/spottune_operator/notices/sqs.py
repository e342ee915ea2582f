"""Notices from our own SQS queue. boto3 in a thread of its own; the event loop handles what it receives.

A message is deleted only after it was handled, and by who still leads: a crash in between brings it again, and handling it twice is
harmless. What cannot be parsed is left, so that the queue's redrive policy moves it to the dead-letter queue.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from spottune_contract.failpoint import hit
from spottune_operator import logs

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import DeleteMessageBatchRequestEntryTypeDef

WAIT_SECONDS = 20
"""Long poll: a message comes at once, an empty queue costs three calls a minute."""
HANDLE_SECONDS = 15.0
"""What of a batch is not handled in this time is left for its next delivery (the queue's visibility timeout is 20 s)."""
BATCHES = 64
"""Receives of up to ten messages whose handling may be under way at once: in a storm nobody waits for the pods of those before him."""
_LONGEST_PAUSE = 30.0
_UNWANTED_PAUSE = 0.5

_log = logs.get(__name__)


@dataclass(frozen=True)
class QueueSettings:
    """Where the queue is. Credentials come from the default chain (EKS Pod Identity, IRSA, environment)."""

    url: str
    region: str
    endpoint: str = ""


class Rejected(Exception):
    """The handler could not read the message: leave it for the dead-letter queue."""


class TooEarly(Exception):
    """Whom the message is about can only be said later: leave it for its next delivery."""


def connect(settings: QueueSettings) -> SQSClient:
    """A client whose calls end soon after the long poll, whatever the network does."""
    config = Config(
        region_name=settings.region,
        connect_timeout=5,
        read_timeout=WAIT_SECONDS + 10,
        retries={"total_max_attempts": 2, "mode": "standard"},
    )
    return boto3.client("sqs", endpoint_url=settings.endpoint or None, config=config)


class NoticeQueue:
    """Receives on a daemon thread and hands each body to `handle` on the event loop.

    `handle` raises `Rejected` or `TooEarly` for a message to be left; any other exception leaves it for another delivery, too.
    `up(bool)` is called on the event loop whenever the queue begins or ceases to answer. `wanted()` is asked, on that thread,
    before anything is received, handled or deleted: while it says no, messages are left for whoever else reads the queue.
    """

    def __init__(
        self,
        client: SQSClient,
        url: str,
        handle: Callable[[str], Awaitable[None]],
        *,
        up: Callable[[bool], None] = lambda answering: None,
        wanted: Callable[[], bool] = lambda: True,
        wait_seconds: int = WAIT_SECONDS,
        handle_seconds: float = HANDLE_SECONDS,
    ) -> None:
        self._client = client
        self._url = url
        self._handle = handle
        self._up = up
        self._wanted = wanted
        self._wait_seconds = wait_seconds
        self._handle_seconds = handle_seconds
        self._stopped = threading.Event()
        self._room = threading.BoundedSemaphore(BATCHES)
        self._answering: bool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin; to be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        # A daemon: a long poll cannot be cancelled, and must not hold up the end of the process.
        threading.Thread(target=self._run, name="sqs", daemon=True).start()

    def stop(self) -> None:
        """No further message is handled after this."""
        self._stopped.set()

    def _run(self) -> None:
        pause = 1.0
        while not self._stopped.is_set():
            # Not received before there is room: what waits here would come again.
            with self._room:
                pass
            if not self._wanted():
                self._stopped.wait(_UNWANTED_PAUSE)
                continue
            try:
                answer = self._client.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=self._wait_seconds)
            except Exception as error:  # whatever it is: nobody would notice that this thread has ended
                self._tell(answering=False)
                _log.warning(
                    "queue does not answer", queue=self._url, error=f"{type(error).__name__}: {error}", again_in_seconds=round(pause)
                )
                self._stopped.wait(pause * (1.0 - 0.5 * random.random()))  # noqa: S311 (jitter)
                pause = min(_LONGEST_PAUSE, pause * 2)
                continue
            pause = 1.0
            self._tell(answering=True)
            messages = [(m.get("Body", ""), m.get("ReceiptHandle", "")) for m in answer.get("Messages", [])]
            if messages:
                self._room.acquire()
                threading.Thread(target=self._take_one_batch, args=(messages,), name="sqs-batch", daemon=True).start()

    def _take_one_batch(self, messages: Sequence[tuple[str, str]]) -> None:
        try:
            self._take(messages)
        finally:
            self._room.release()

    def _take(self, messages: Sequence[tuple[str, str]]) -> None:
        """All at once: ten notices of one storm must not wait for each other's trainers."""
        assert self._loop is not None
        if self._stopped.is_set() or self._loop.is_closed() or not self._wanted():
            return
        running = [(receipt, asyncio.run_coroutine_threadsafe(_await(self._handle(body)), self._loop)) for body, receipt in messages]
        until, handled = time.monotonic() + self._handle_seconds, []
        for receipt, future in running:
            try:
                future.result(max(0.0, until - time.monotonic()))
                hit("O8")
            except Rejected as error:
                _log.warning("message left for the dead-letter queue", queue=self._url, error=str(error))
            except TooEarly as error:
                _log.debug("message left for its next delivery", queue=self._url, why=str(error))
            except FutureTimeout:
                future.cancel()
                _log.warning("message not handled in time; it will come again", queue=self._url)
            except Exception as error:
                _log.warning("message not handled; it will come again", queue=self._url, error=f"{type(error).__name__}: {error}")
            else:
                handled.append(receipt)
        # Who was stopped meanwhile, and has a successor, saw the cluster as it was before.
        if handled and self._wanted():
            self._delete(handled)

    def _delete(self, receipts: Sequence[str]) -> None:
        """In one call: in a storm each call of this thread waits for its turn beside the event loop."""
        entries: list[DeleteMessageBatchRequestEntryTypeDef] = [
            {"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)
        ]
        try:
            failed = self._client.delete_message_batch(QueueUrl=self._url, Entries=entries).get("Failed", [])
        except Exception as error:
            _log.warning("messages not deleted; they will come again", queue=self._url, error=f"{type(error).__name__}: {error}")
            return
        for each in failed:
            _log.warning("message not deleted; it will come again", queue=self._url, error=f"{each.get('Code')}: {each.get('Message')}")

    def _tell(self, *, answering: bool) -> None:
        if answering != self._answering and self._loop is not None and not self._loop.is_closed():
            self._answering = answering
            self._loop.call_soon_threadsafe(self._up, answering)


async def _await(work: Awaitable[None]) -> None:
    await work
