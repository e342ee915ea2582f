"""How a command ends when it cannot do what was asked: one sentence on stderr and an exit code, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from spottune_trainer.checkpoint.errors import CheckpointError, LogNotUnderstood, NoReadableCheckpoint, StorageUnavailable


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
    """Turns everything that users, networks and stores can do wrong into a sentence and an exit code."""
    try:
        yield
    except Refusal as refusal:
        code, message = refusal.code, str(refusal)
    except CheckpointError as error:
        code, message = _storage(error)
    except KeyboardInterrupt:
        raise SystemExit(Exit.INTERRUPTED) from None
    else:
        return
    print(f"spottune: {message}", file=sys.stderr)
    raise SystemExit(code)


def _storage(error: CheckpointError) -> tuple[Exit, str]:
    if isinstance(error, LogNotUnderstood):
        return Exit.USAGE, f"{error}: use the `spottune` of that release"
    if isinstance(error, NoReadableCheckpoint):
        return Exit.VIOLATION, str(error)
    if isinstance(error, StorageUnavailable):
        said = f" (last: {error.last})" if error.last else ""
        return Exit.UNREACHABLE, f"the store does not answer{said}: check the network, --endpoint and --region"
    return Exit.UNREACHABLE, str(error)
