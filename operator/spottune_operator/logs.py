"""JSON log lines on standard error, each with the job, namespace and epoch that it is about.

Only chosen values are logged, never whole objects: a manifest or a configuration may hold what nobody should read in a log.
"""

from __future__ import annotations

import logging
import sys

import structlog

_LIBRARIES = {"kopf": logging.WARNING, "botocore": logging.WARNING, "urllib3": logging.WARNING, "aiohttp": logging.WARNING}


def configure(level: str) -> None:
    """Send our own lines and those of the libraries through one JSON formatter. `level` is a name like `info`."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, lowest in _LIBRARIES.items():
        logging.getLogger(name).setLevel(max(lowest, root.level))


def get(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; the context (job, namespace, epoch) comes from `structlog.contextvars`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
