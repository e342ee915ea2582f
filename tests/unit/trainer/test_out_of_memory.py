"""Every way in which memory ends is recognised, and nothing else is."""

from __future__ import annotations

import errno

import pytest
import torch

from spottune_trainer.attempt import out_of_memory


def refusal_of_torch() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    return caught.value


def test_python_torch_and_the_system_are_understood() -> None:
    said = [MemoryError(), refusal_of_torch(), torch.OutOfMemoryError("CUDA out of memory"), OSError(errno.ENOMEM, "no memory")]
    assert [out_of_memory(error) for error in said] == [True] * 4


def test_other_errors_are_not_taken_for_it() -> None:
    said = [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError(errno.ENOSPC, "no space"), ValueError("memory")]
    assert [out_of_memory(error) for error in said] == [False] * 3
