"""One attempt as a process: environment → HTTP → probe and claim → sources → model → restore → train → FINAL → export → exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spottune_contract.env import PREFIX, TERMINATION_PATH, BadEnvironment, RunEnv
from spottune_contract.exitcodes import ExitCode
from spottune_contract.progress import Termination
from spottune_contract.version import CONTRACT_VERSION, IncompatibleContract
from spottune_trainer.preemption import Preemption

if TYPE_CHECKING:
    from spottune_trainer.attempt import Attempt

TAIL_SECONDS = 5.0


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Run one attempt; returns the exit code. The termination message is written in every case."""
    preemption = Preemption()
    preemption.install()
    try:
        env = RunEnv.from_environ(environ)
    except (IncompatibleContract, BadEnvironment) as error:
        reason = "IncompatibleContract" if isinstance(error, IncompatibleContract) else "BadEnvironment"
        epoch = environ.get(f"{PREFIX}EPOCH", "")
        word = Termination(
            contract=CONTRACT_VERSION,
            epoch=int(epoch) if epoch.isascii() and epoch.isdigit() else 0,
            exit_code=ExitCode.BAD_CONFIG,
            reason=reason,
            message=str(error),
        )
        _write_last_word(environ.get(f"{PREFIX}TERMINATION_PATH", TERMINATION_PATH), word)
        sys.stdout.write(word.model_dump_json() + "\n")
        return ExitCode.BAD_CONFIG
    return _attempt(env, preemption)


def _attempt(env: RunEnv, preemption: Preemption) -> int:
    # Before any library with threads is imported.
    from spottune_trainer.compute import set_thread_environment

    set_thread_environment(os.environ, env.run_spec.training.cpu_threads, env.scratch_dir)
    from spottune_trainer.attempt import Attempt
    from spottune_trainer.checkpoint import new_token
    from spottune_trainer.logs import start

    writer = new_token()
    log, tail = start(env.log_level, job=env.job, namespace=env.namespace, epoch=env.epoch, writer=writer)
    attempt = Attempt(env, preemption, log, tail, writer=writer)
    outcome = attempt.run()
    word = attempt.board.termination(outcome.code, outcome.reason, outcome.message, outcome.output)
    _write_last_word(env.termination_path, word)
    log.info("ended", exit_code=int(outcome.code), reason=outcome.reason, message=outcome.message, step=word.step)
    # The exit code is worth more than the log: a store that hangs may not hold it back.
    uploading = threading.Thread(target=_last_uploads, args=(attempt,), daemon=True)
    uploading.start()
    uploading.join(TAIL_SECONDS)
    return int(outcome.code)


def _last_uploads(attempt: Attempt) -> None:
    attempt.leave()
    attempt.upload_tail()


def _write_last_word(path: str, word: Termination) -> None:
    with contextlib.suppress(OSError):  # outside a pod there may be no such file
        Path(path).write_text(word.encode())


def run() -> None:
    """`python -m spottune_trainer`: ends with the code that was decided, without running foreign exit hooks that could change it."""
    started = time.monotonic()
    try:
        code = main()
    except BaseException as error:
        sys.stderr.write(f"spottune_trainer: unexpected {type(error).__name__} after {time.monotonic() - started:.1f} s\n")
        raise
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
