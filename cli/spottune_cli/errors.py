"""How a command ends when it cannot do what was asked: one sentence on stderr and an exit code, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `spottune`."""

    OK = 0
    VIOLATION = 1
    """Something that should be there is missing or damaged; for `watch`: the job did not succeed."""
    USAGE = 2
    """The question cannot be answered as it was asked: another job, place, step, folder or release is needed."""
    UNREACHABLE = 3
    """The bucket or the cluster does not answer, or refuses."""
    INTERRUPTED = 130


class Refusal(Exception):
    """Ends a command. The message names the thing and the remedy."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def speaking() -> Iterator[None]:
    """Turns a `Refusal` into its sentence and exit code."""
    try:
        yield
    except Refusal as refusal:
        print(f"spottune: {refusal}", file=sys.stderr)
        raise SystemExit(refusal.code) from None
    except KeyboardInterrupt:
        raise SystemExit(Exit.INTERRUPTED) from None
