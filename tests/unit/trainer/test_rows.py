from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from spottune_contract.runspec import DatasetFormat
from spottune_trainer.errors import BadData
from spottune_trainer.rows import MAX_ROW_BYTES, read_rows

GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "id": 7}'


def read(tmp_path: Path, data: bytes | str, form: str = "messages") -> object:
    path = tmp_path / "data.jsonl"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_rows(path, DatasetFormat(form), "s3://bucket/data.jsonl")


def test_rows_are_read_with_their_lines_and_the_digest_of_the_file(tmp_path: Path) -> None:
    text = f"{GOOD}\n{GOOD}\n"
    rows = read(tmp_path, text)
    assert [(row.line, row.messages[1].content) for row in rows.rows] == [(1, "b"), (2, "b")]  # type: ignore[attr-defined]
    assert rows.digest == hashlib.sha256(text.encode()).hexdigest()  # type: ignore[attr-defined]


def test_the_last_line_needs_no_newline(tmp_path: Path) -> None:
    assert len(read(tmp_path, f"{GOOD}\n{GOOD}").rows) == 2  # type: ignore[attr-defined]


def test_prompt_and_completion_and_text_are_read(tmp_path: Path) -> None:
    row = read(tmp_path, '{"prompt": "p", "completion": "c"}', "prompt-completion").rows[0]  # type: ignore[attr-defined]
    assert (row.prompt, row.completion) == ("p", "c")
    assert read(tmp_path, '{"text": "t"}', "text").rows[0].completion == "t"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "form", "says"),
    [
        ("{", "messages", "is not JSON"),
        ("[" * 100_000, "messages", "is not JSON"),
        ("", "messages", "is empty"),
        ("[1]", "messages", "not an object"),
        ("{}", "messages", 'no list "messages"'),
        ('{"messages": []}', "messages", 'no list "messages"'),
        ('{"messages": [1]}', "messages", r"messages\[0\] is not an object"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "messages", r"messages\[0\].role is 'robot'"),
        ('{"messages": [{"role": "user", "content": ["x"]}]}', "messages", r"messages\[0\].content is not a string"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "messages", "no assistant turn"),
        ('{"prompt": "x"}', "prompt-completion", 'no string "completion"'),
        ('{"prompt": "x", "completion": ""}', "prompt-completion", "empty completion"),
        ('{"text": 1}', "text", 'no string "text"'),
        ('{"text": ""}', "text", "empty text"),
    ],
)
def test_a_bad_row_is_named_by_source_and_line(tmp_path: Path, line: str, form: str, says: str) -> None:
    first = {"messages": GOOD, "prompt-completion": '{"prompt": "", "completion": "c"}', "text": '{"text": "t"}'}[form]
    with pytest.raises(BadData, match=says) as caught:
        read(tmp_path, f"{first}\n{line}\n{first}\n", form)
    assert "s3://bucket/data.jsonl, line 2 " in str(caught.value)
    assert caught.value.reason == "UnreadableRow"


def test_bytes_that_are_not_utf_8_are_named_by_line(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"line 2 is not UTF-8 \(byte 2\)"):
        read(tmp_path, GOOD.encode() + b'\n{"\xff"}\n')


def test_an_endless_line_is_not_read_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="line 1 is longer than 16 MiB"):
        read(tmp_path, json.dumps({"text": "x" * MAX_ROW_BYTES}), "text")


def test_an_empty_file_and_a_missing_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadData) as empty:
        read(tmp_path, "")
    with pytest.raises(BadData) as missing:
        read_rows(tmp_path / "none", DatasetFormat.TEXT, "none")
    assert (empty.value.reason, missing.value.reason) == ("DatasetEmpty", "DatasetUnreadable")
