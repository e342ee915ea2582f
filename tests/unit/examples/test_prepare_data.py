from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from examples.prepare_data import EVAL_SAMPLES, MAX_CHARACTERS, clean, prepare_data
from spottune_operator.api.v1alpha1 import FineTuneJobSpec

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def samples(path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert all([turn["role"] for turn in row] == ["system", "user", "assistant"] for row in rows)
    return [(row[1]["content"], row[2]["content"]) for row in rows]


def test_the_data_are_the_same_every_time_and_training_and_evaluation_share_nothing(tmp_path: Path) -> None:
    train, evaluation = prepare_data(tmp_path / "a")
    again = prepare_data(tmp_path / "b")
    assert (train.read_bytes(), evaluation.read_bytes()) == (again[0].read_bytes(), again[1].read_bytes())
    assert len(samples(evaluation)) == EVAL_SAMPLES
    assert len(samples(train)) > 900
    assert not {answer for _, answer in samples(train)} & {answer for _, answer in samples(evaluation)}


def test_every_answer_is_prose_of_limited_length(tmp_path: Path) -> None:
    for path in prepare_data(tmp_path):
        for question, answer in samples(path):
            assert len(answer) <= MAX_CHARACTERS + 1, question
            assert answer[-1] in ".!?", question
            assert ">>>" not in answer and "::=" not in answer and "\n" not in answer, question  # noqa: PT018


@pytest.mark.parametrize(
    ("docstring", "answer"),
    [
        (
            "abs(x, /)\n\nReturn the absolute value of the argument, whatever its sign may have been before.",
            "Return the absolute value of the",
        ),
        ("new(name) -> hash\n\nReturn a new hashing object that uses the algorithm of this name.", "Return a new hashing object"),
        ("fold(x) - Return x folded twice along its longest side, as paper is folded.", "Return x folded twice"),
        ("Return the square of a number.\n\nExample:\n\n>>> square(2)\n4", None),
        (
            "Return the square of a number, computed without loss of precision.\n\nExample:\n\n>>> square(2)\n4",
            "Return the square of a number, computed",
        ),
        ("", None),
        ("Too short.", None),
    ],
)
def test_signatures_and_examples_are_cut_from_docstrings(docstring: str, answer: str | None) -> None:
    cleaned = clean(docstring)
    assert cleaned is None if answer is None else cleaned is not None and cleaned.startswith(answer)
    assert not (cleaned or "").endswith(":.")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_job_is_one_that_the_operator_takes(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    assert document["kind"] == "FineTuneJob"
    FineTuneJobSpec.model_validate(document["spec"])
