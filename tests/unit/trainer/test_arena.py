"""Parameters and moments in flat memory: nothing of what is computed changes by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from spottune_trainer.arena import MOMENTS, Arena
from spottune_trainer.loop import Run, train

Parameters = dict[str, torch.nn.Parameter]
MakeRun = Callable[..., Run]


def some_parameters(dtype: torch.dtype = torch.float32) -> Parameters:
    chance = torch.Generator().manual_seed(3)
    shapes = {"b": (5, 7), "a": (1,), "c": (3, 2, 2), "d.lora_A.weight": (8, 33)}
    return {name: torch.nn.Parameter(torch.randn(shape, generator=chance).to(dtype)) for name, shape in shapes.items()}


def adamw(parameters: Parameters) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters.values(), lr=0.01, weight_decay=0.1)


def steps(parameters: Parameters, optimizer: torch.optim.Optimizer, first: int, count: int) -> None:
    for number in range(first, first + count):
        chance = torch.Generator().manual_seed(number)
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=chance).to(parameter.dtype)
        optimizer.step()


def tensors(parameters: Parameters, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [t for p in parameters.values() for t in (p.detach(), *(optimizer.state[p][key] for key in ("step", *MOMENTS)))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("steps_apart", [False, True])
def test_steps_are_the_same_to_the_bit_as_without_it(dtype: torch.dtype, before: int, steps_apart: bool) -> None:
    plain, moved = some_parameters(dtype), some_parameters(dtype)
    plain_optimizer, optimizer = adamw(plain), adamw(moved)
    steps(plain, plain_optimizer, 0, 5)
    steps(moved, optimizer, 0, before)  # a state that is there already is kept
    Arena(moved, optimizer, steps_apart=steps_apart)
    steps(moved, optimizer, before, 5 - before)
    for own, expected in zip(tensors(moved, optimizer), tensors(plain, plain_optimizer), strict=True):
        assert own.dtype == expected.dtype
        assert torch.equal(own, expected)


@pytest.mark.parametrize("steps_apart", [False, True])
def test_every_tensor_of_the_state_lies_in_the_pieces(steps_apart: bool) -> None:
    parameters = some_parameters()
    optimizer = adamw(parameters)
    arena = Arena(parameters, optimizer, steps_apart=steps_apart)
    steps(parameters, optimizer, 0, 2)
    pieces = {piece.untyped_storage().data_ptr() for piece in (arena.weights, arena.moments, arena.steps)}
    assert len(pieces) == 2 + steps_apart
    assert {tensor.untyped_storage().data_ptr() for tensor in tensors(parameters, optimizer)} == pieces
    assert arena.steps.view(torch.float32).tolist() == [2.0] * len(parameters)


def test_what_is_filled_in_stays_in_the_pieces_and_nothing_means_as_before_the_first_step() -> None:
    parameters, others = some_parameters(), some_parameters()
    optimizer, other_optimizer = adamw(parameters), adamw(others)
    arena, other = Arena(parameters, optimizer), Arena(others, other_optimizer)
    steps(parameters, optimizer, 0, 3)
    other.fill(parameters, {f"{key}/{name}": value for name, p in parameters.items() for key, value in optimizer.state[p].items()})
    assert torch.equal(other.weights, arena.weights)
    assert torch.equal(other.moments, arena.moments)
    other.fill(parameters, {})
    assert not other.moments.any()


def test_the_parameters_of_a_run_are_those_of_its_model(make_run: MakeRun) -> None:
    from tests.unit.trainer.conftest import Quiet

    run = make_run(maxSteps=2)
    train(run, Quiet())
    base = run.arena.weights.untyped_storage().data_ptr()
    trained = [p for p in run.adapted.model.parameters() if p.requires_grad]
    assert len(trained) == len(run.adapted.parameters)
    assert all(p.untyped_storage().data_ptr() == base for p in trained)
