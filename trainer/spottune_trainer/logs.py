"""Structured logs: one JSON object a line on stdout, and the last 64 KiB of them kept for the object store."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections import deque
from typing import Any, TextIO

import structlog

TAIL_BYTES = 64 * 1024
Log = structlog.typing.FilteringBoundLogger


class Tail:
    """A text stream that passes everything on and remembers the end of it. Thread-safe."""

    def __init__(self, stream: TextIO, limit: int = TAIL_BYTES) -> None:
        self._stream, self._limit, self._lock = stream, limit, threading.Lock()
        self._kept: deque[bytes] = deque()
        self._size = 0

    def write(self, text: str) -> int:
        with self._lock:
            self._kept.append(text.encode("utf-8", "replace"))
            self._size += len(self._kept[-1])
            while self._size > self._limit and len(self._kept) > 1:
                self._size -= len(self._kept.popleft())
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):  # a closed pipe must not end a training
                pass
        return len(text)

    def flush(self) -> None:
        """Every write is flushed already."""

    def text(self) -> bytes:
        """The kept end, at most `limit` bytes (a single longer line is cut at its start)."""
        with self._lock:
            return b"".join(self._kept)[-self._limit :]


def start(level: str, **context: Any) -> tuple[Log, Tail]:
    """Set structlog and the standard library's logging up; `context` is in every line."""
    tail = Tail(sys.stdout)
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=tail),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    log: Log = structlog.get_logger().bind(**context)
    logging.basicConfig(level=logging.WARNING, handlers=[_Forward(log)], force=True)
    logging.captureWarnings(True)
    warnings.simplefilter("ignore", FutureWarning)  # addressed to the authors of libraries
    return log, tail


class _Forward(logging.Handler):
    """Lines of libraries become lines of ours."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(record.levelno, record.getMessage()[:2000], logger=record.name)
