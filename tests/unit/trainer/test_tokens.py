"""Where the loss is taken. The tokenizer is real, its templates are of several kinds."""

from __future__ import annotations

from typing import Any

import pytest

from examples.tiny_model import write_tokenizer
from spottune_contract.runspec import DatasetFormat
from spottune_trainer.errors import BadConfig, BadData
from spottune_trainer.rows import Message, Row, Rows
from spottune_trainer.tokens import IGNORED, Sample, tokenize

LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% elif m['role'] == 'assistant' %} {{ m['content'] }} </s>"
    "{% else %}<<SYS>>{{ m['content'] }}<</SYS>>{% endif %}{% endfor %}"
)
THINKING = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}{% if add_generation_prompt %}<assistant><think></think>{% endif %}"
REWRITING = "{% for m in messages %}<{{ m['role'] }}>{% if loop.last or m['role'] != 'assistant' %}{{ m['content'] }}{% else %}(left out){% endif %}</>{% endfor %}"
REFUSING = "{{ raise_exception('roles must alternate') }}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def chat(*turns: str, line: int = 1) -> Row:
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return Row(line, messages=tuple(Message(roles[turn[0]], turn[2:]) for turn in turns))


def learned(tokenizer: Any, sample: Sample) -> str:
    return str(tokenizer.decode([token for token in sample.labels.tolist() if token != IGNORED]))


def one(tokenizer: Any, row: Row, form: str = "messages", max_length: int = 200) -> Sample:
    return tokenize(Rows("data", (row,), ""), DatasetFormat(form), tokenizer, max_length).samples[0]


def test_only_assistant_turns_are_learned_with_their_end_mark(tokenizer: Any) -> None:
    sample = one(tokenizer, chat("s:be brief", "u:the node", "a:came back", "u:all its", "a:work"))
    assert learned(tokenizer, sample) == "came back<|im_end|>\nwork<|im_end|>\n"
    assert "the node" in tokenizer.decode(sample.ids)


def test_a_conversation_may_begin_with_the_assistant(tokenizer: Any) -> None:
    assert "hello<|im_end|>" in learned(tokenizer, one(tokenizer, chat("a:hello", "u:node", "a:work")))


@pytest.mark.parametrize(("template", "expected"), [(LLAMA2, " came back </s> work </s>"), (THINKING, "came back</>work</>")])
def test_spans_are_found_without_knowing_the_template(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, template: str, expected: str
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    assert learned(tokenizer, one(tokenizer, chat("u:the node", "a:came back", "u:all", "a:work"))) == expected


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", REWRITING)
    with pytest.raises(BadConfig, match="line 1: the model's chat template changes earlier turns"):
        one(tokenizer, chat("u:the node", "a:came back", "u:all", "a:work"))


def test_a_template_that_refuses_a_conversation_names_the_line(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", REFUSING)
    with pytest.raises(BadData, match=r"line 9: .*roles must alternate"):
        one(tokenizer, chat("u:x", "a:y", line=9))


def test_without_a_chat_template_messages_cannot_be_trained_on(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(BadConfig, match="no chat template"):
        one(tokenizer, chat("u:x", "a:y"))


def test_completion_is_learned_with_the_end_of_sequence_and_the_prompt_is_not(tokenizer: Any) -> None:
    sample = one(tokenizer, Row(1, prompt="the node ", completion="came back"), "prompt-completion")
    assert learned(tokenizer, sample) == " came back<|im_end|>"
    assert sample.ids[-1] == tokenizer.eos_token_id


def test_text_is_learned_whole(tokenizer: Any) -> None:
    sample = one(tokenizer, Row(1, completion="the node came back"), "text")
    assert learned(tokenizer, sample) == "the node came back<|im_end|>"
    assert sample.targets == len(sample.ids) - 1


def test_longer_samples_are_cut_and_those_without_a_target_left_are_dropped_by_line(tokenizer: Any) -> None:
    long_prompt = chat("u:" + "the node " * 20, "a:work", line=2)
    found = tokenize(Rows("data", (chat("u:a", "a:" + "work " * 40), long_prompt), ""), DatasetFormat.MESSAGES, tokenizer, 24)
    assert [len(sample.ids) for sample in found.samples] == [24]
    assert (found.dropped, found.cut) == ((2,), 2)


def test_data_without_any_target_are_refused(tokenizer: Any) -> None:
    with pytest.raises(BadData, match="raise maxLength"):
        tokenize(Rows("data", (chat("u:" + "the node " * 20, "a:work"),), ""), DatasetFormat.MESSAGES, tokenizer, 16)
