"""From a kept commit to a folder that PEFT loads: which commit is meant (pure), and writing a folder whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from spottune_cli.errors import Exit, Refusal
from spottune_cli.history import Data, History, kept_steps
from spottune_contract.records import Commit, encode
from spottune_trainer.checkpoint.errors import Unacceptable
from spottune_trainer.checkpoint.transfer import Files
from spottune_trainer.export import adapter_files
from spottune_trainer.state_files import ADAPTER, TRAINER

NEEDED = (ADAPTER, TRAINER)
"""What an adapter is made of."""
STATE = "state"
"""Folder of the complete state, with `--full`."""


def choose(history: History, at: str) -> Commit:
    """The commit that `at` means: a step, `latest` or `final`. Raises `Refusal` naming what there is instead."""
    kept = kept_steps(history)
    head = history.head
    if head is None:
        raise Refusal(Exit.USAGE, "nothing was committed yet: there is no adapter to restore")
    if at == "latest":
        return head
    if at == "final":
        if head.reason != "final":
            raise Refusal(Exit.USAGE, f"the run is not finished; {_there_is(kept)}")
        return head
    if not at.isascii() or not at.isdigit():
        raise Refusal(Exit.USAGE, f"--at {at!r} is no step: give a number, `latest` or `final`; {_there_is(kept)}")
    step = int(at)
    if step in kept:
        return kept[step]
    row = next(
        (r for r in reversed(history.rows) if isinstance(r.entry, Commit) and r.entry.step == step and r.data is not Data.KEPT), None
    )
    why = f"step {step} is not kept"
    if row is not None:
        why += f" (committed in slot {row.slot}, its data are {row.data.value})"
    raise Refusal(Exit.USAGE, f"{why}; {_there_is(kept)}")


def unreadable(history: History, commit: Commit, fault: str) -> str:
    """What to say of a commit whose data cannot be used."""
    others = {step: other for step, other in kept_steps(history).items() if other.slot != commit.slot}
    return f"step {commit.step} (slot {commit.slot}) cannot be restored: {fault}; give another step with --at, {_there_is(others)}"


def contents(commit: Commit, files: Files, *, full: bool) -> dict[str, bytes]:
    """Relative names and contents of the folder. Raises `Refusal` if the state holds no adapter."""
    try:
        wanted = adapter_files(files)
    except (Unacceptable, KeyError) as error:
        raise Refusal(
            Exit.VIOLATION, f"slot {commit.slot} (step {commit.step}) holds no adapter ({error}): was it written by another trainer?"
        ) from None
    if full:
        wanted |= {f"{STATE}/{name}": bytes(content) for name, content in files.items()}
        wanted[f"{STATE}/commit.json"] = encode(commit) + b"\n"
    return wanted


def check_target(folder: Path, *, force: bool) -> None:
    """Before anything is downloaded: whether `folder` may be written. Raises `Refusal`."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise Refusal(Exit.USAGE, f"{folder} is no folder: give another one with -o")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise Refusal(Exit.USAGE, f"{folder} is not empty: give another folder with -o, or --force to replace it")


def write(folder: Path, wanted: Mapping[str, bytes]) -> None:
    """Make `folder` of exactly these files. Until the last moment it is what it was, and a crash leaves nothing half there.

    Raises `Refusal` if the disk does not take it.
    """
    mark = secrets.token_hex(4)
    folder = folder.absolute()
    new, old = (folder.with_name(f".{folder.name}.{kind}-{mark}") for kind in ("new", "old"))
    try:
        new.mkdir(parents=True)
        for name, content in wanted.items():
            _write_file(new / name, content)
        if folder.exists() and any(folder.iterdir()):
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as error:
        raise Refusal(
            Exit.USAGE, f"{folder} cannot be written: {error.strerror or error}; make room for it, or give another folder with -o"
        ) from None
    finally:
        for rest in (new, old):
            shutil.rmtree(rest, ignore_errors=True)


def _write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _there_is(kept: Mapping[int, Commit]) -> str:
    if not kept:
        return "no commit is kept whole; see `spottune verify`"
    steps = [str(step) for step, commit in kept.items() if commit.reason != "final"]
    final = next((f"final {step}" for step, commit in kept.items() if commit.reason == "final"), "")
    if not steps:
        return f"kept: {final}"
    return f"kept: {', '.join(steps)}" + (f" ({final})" if final else "")
