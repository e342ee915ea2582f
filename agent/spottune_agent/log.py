"""JSON logs on stderr, one object a line, by the standard library alone."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any


class JsonFormatter(logging.Formatter):
    """Event name, level, time and the fields given as `extra={"fields": {…}}`."""

    def __init__(self, **bound: str) -> None:
        super().__init__()
        self._bound = bound

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"timestamp": at, "level": record.levelname.lower(), "event": record.getMessage(), **self._bound}
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Log:
    """A logger whose messages are event names with fields."""

    def __init__(self, name: str = "spottune_agent") -> None:
        self._logger = logging.getLogger(name)

    def info(self, event: str, **fields: object) -> None:
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: object) -> None:
        self._logger.warning(event, extra={"fields": fields})

    def exception(self, event: str, **fields: object) -> None:
        self._logger.exception(event, extra={"fields": fields})


def configure(level: str, **bound: str) -> None:
    """Send everything to stderr as JSON; `bound` goes into every line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(**bound))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
