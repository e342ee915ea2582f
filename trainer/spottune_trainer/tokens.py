"""From rows to token ids and loss labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spottune_contract.runspec import DatasetFormat
from spottune_trainer.errors import BadConfig, BadData
from spottune_trainer.rows import Row, Rows

IGNORED = -100
"""Label of a position without loss (what torch's cross entropy ignores by default)."""


class Tokenizer(Protocol):
    """The part of a fast Hugging Face tokenizer that is used."""

    eos_token_id: int | None
    chat_template: Any

    def __call__(self, text: str, **options: Any) -> Any: ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


@dataclass(frozen=True)
class Sample:
    """One tokenized row: `ids` and `labels` of shape [length], int64; labels are `IGNORED` where no loss is taken."""

    ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    targets: int
    """Positions that carry loss: labels are shifted by one, so the first position never does."""


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a text that carry loss."""

    start: int
    end: int


@dataclass(frozen=True)
class Samples:
    samples: tuple[Sample, ...]
    dropped: tuple[int, ...]
    """Lines of which nothing with a loss is left within `dataset.maxLength`."""
    cut: int
    """Samples that were longer than `dataset.maxLength`."""


def tokenize(rows: Rows, form: DatasetFormat, tokenizer: Tokenizer, max_length: int) -> Samples:
    """Tokenize all rows. Raises `BadData` if nothing is left to learn, `BadConfig` for a tokenizer that cannot do the format."""
    if form is DatasetFormat.MESSAGES and not tokenizer.chat_template:
        raise BadConfig("NoChatTemplate", "model.source has no chat template: use an instruct model, or dataset.format prompt-completion")
    samples, dropped, cut = [], [], 0
    for row in rows.rows:
        sample, whole = _sample(row, form, tokenizer, max_length, rows.source)
        cut += whole > max_length
        if sample.targets:
            samples.append(sample)
        else:
            dropped.append(row.line)
    if not samples:
        raise BadData(
            "NothingToLearn",
            f"{rows.source}: within dataset.maxLength ({max_length} tokens) no row has a token with a loss: raise maxLength or shorten the prompts",
        )
    return Samples(tuple(samples), tuple(dropped), cut)


def _sample(row: Row, form: DatasetFormat, tokenizer: Tokenizer, max_length: int, source: str) -> tuple[Sample, int]:
    """The sample, and its length in tokens before it was cut."""
    if form is DatasetFormat.MESSAGES:
        text, spans = chat_spans(row, tokenizer, source)
    else:
        text = row.prompt + row.completion
        spans = [Span(len(row.prompt), len(text))]
    chat = form is DatasetFormat.MESSAGES
    # A rendered chat template already has every special token in its text.
    encoded = tokenizer(text, add_special_tokens=not chat, return_offsets_mapping=True, truncation=False, verbose=False)
    ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    labels = _labels(ids, offsets, spans)
    if not chat and tokenizer.eos_token_id is not None:
        if ids[-1] != tokenizer.eos_token_id:
            ids.append(tokenizer.eos_token_id)
            labels.append(IGNORED)
        labels[-1] = ids[-1]
    whole = len(ids)
    array = np.asarray(ids[:max_length], dtype=np.int64)
    marked = np.asarray(labels[:max_length], dtype=np.int64)
    return Sample(array, marked, int((marked[1:] != IGNORED).sum())), whole


def _labels(ids: Sequence[int], offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[int]:
    """A token has a loss if any of its characters is in a span: a word's leading space may well be the prompt's last character."""
    labels, remaining = [], list(spans)
    for token, (start, end) in zip(ids, offsets, strict=True):
        while remaining and remaining[0].end <= start:
            remaining.pop(0)
        inside = bool(remaining) and max(start, remaining[0].start) < end
        labels.append(token if inside else IGNORED)
    return labels


def chat_spans(row: Row, tokenizer: Tokenizer, source: str) -> tuple[str, list[Span]]:
    """The whole conversation as text, and where the assistant speaks (its end-of-turn mark included, so that it learns to stop).

    The template is rendered up to each assistant turn and including it; the difference is the turn. That needs no knowledge of the
    template, only that it appends: one that rewrites earlier turns is refused.
    """
    turns = [{"role": m.role, "content": m.content} for m in row.messages]
    text = _render(tokenizer, turns, False, row, source)
    spans = []
    for place, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        through = _render(tokenizer, turns[: place + 1], False, row, source)
        before = _render(tokenizer, turns[:place], True, row, source) if place else ""
        if not text.startswith(through):
            raise BadConfig(
                "ChatTemplateRewrites",
                f"{source}, line {row.line}: the model's chat template changes earlier turns when a later one is added, so the assistant's "
                "text cannot be told apart: use dataset.format prompt-completion, or a model with an appending template",
            )
        spans.append(Span(_common_prefix(before, through), len(through)))
    return text, spans


def _render(tokenizer: Tokenizer, turns: list[dict[str, str]], prompt: bool, row: Row, source: str) -> str:
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt))
    except Exception as error:  # a template is a program of the model's author and may raise anything
        raise BadData(
            "ChatTemplateRefuses", f"{source}, line {row.line}: the model's chat template refuses the conversation: {str(error)[:300]}"
        ) from None


def _common_prefix(one: str, other: str) -> int:
    if other.startswith(one):
        return len(one)
    differing = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, len(other))
