"""Reading JSON Lines with strict checks: a bad row is named by file and line before a model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spottune_contract.runspec import DatasetFormat
from spottune_trainer.errors import BadData

MAX_ROW_BYTES = 16 * 1024 * 1024
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One sample as written: either messages, or a prompt (may be empty) with its completion."""

    line: int
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    completion: str = ""


@dataclass(frozen=True)
class Rows:
    """All samples of a file. `digest` is the SHA-256 of its bytes: an attempt that meets other data must not go on."""

    source: str
    rows: tuple[Row, ...]
    digest: str


def read_rows(path: Path, form: DatasetFormat, source: str) -> Rows:
    """Read and check every row. Raises `BadData` naming `source`, the line and what is wrong with it."""
    digest = hashlib.sha256()
    rows = []
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(_lines(stream, source), 1):
                digest.update(line)
                rows.append(_row(line, number, form, source))
    except OSError as error:
        raise BadData(
            "DatasetUnreadable", f"{source}: {error.strerror}: give the path of a JSON Lines file that the trainer may read"
        ) from None
    if not rows:
        raise BadData("DatasetEmpty", f"{source} has no rows: write one JSON object a line")
    return Rows(source, tuple(rows), digest.hexdigest())


def _lines(stream: Any, source: str) -> Iterator[bytes]:
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES:
            raise _bad(source, number, f"is longer than {MAX_ROW_BYTES >> 20} MiB", "split the sample")
        yield line


def _row(line: bytes, number: int, form: DatasetFormat, source: str) -> Row:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(source, number, f"is not UTF-8 (byte {error.start})", "save the file as UTF-8") from None
    if not text.strip():
        raise _bad(source, number, "is empty", "remove the line")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = f"column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise _bad(source, number, f"is not JSON ({what})", "write one JSON object a line") from None
    if not isinstance(value, dict):
        raise _bad(source, number, f"is a JSON {type(value).__name__}, not an object", "write one JSON object a line")
    if form is DatasetFormat.MESSAGES:
        return Row(number, messages=_messages(value, number, source))
    if form is DatasetFormat.PROMPT_COMPLETION:
        prompt, completion = (_text(value, name, number, source) for name in ("prompt", "completion"))
        if not completion:
            raise _bad(source, number, "has an empty completion", "there would be nothing to learn: remove the row")
        return Row(number, prompt=prompt, completion=completion)
    text = _text(value, "text", number, source)
    if not text:
        raise _bad(source, number, "has an empty text", "remove the row")
    return Row(number, completion=text)


def _messages(value: dict[str, Any], number: int, source: str) -> tuple[Message, ...]:
    found = value.get("messages")
    if not isinstance(found, list) or not found:
        raise _bad(source, number, 'has no list "messages"', f"write {_EXAMPLE} or set dataset.format")
    messages = []
    for place, item in enumerate(found):
        if not isinstance(item, dict):
            raise _bad(source, number, f"messages[{place}] is not an object", f"write {_EXAMPLE}")
        role, content = item.get("role"), item.get("content")
        if role not in ROLES:
            raise _bad(source, number, f"messages[{place}].role is {role!r}", f"use one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise _bad(source, number, f"messages[{place}].content is not a string", f"write {_EXAMPLE}")
        messages.append(Message(role, content))
    if not any(m.role == "assistant" and m.content for m in messages):
        raise _bad(source, number, "has no assistant turn with text", "the loss is taken on assistant turns: remove the row")
    return tuple(messages)


_EXAMPLE = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'


def _text(value: dict[str, Any], name: str, number: int, source: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise _bad(source, number, f'has no string "{name}"', "add it, or set dataset.format to the format of the file")
    return found


def _bad(source: str, number: int, what: str, remedy: str) -> BadData:
    return BadData("UnreadableRow", f"{source}, line {number} {what}: {remedy}")
