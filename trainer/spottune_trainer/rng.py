"""Every random number generator that a training step may use, as plain tensors."""

from __future__ import annotations

import random

import numpy as np
import torch

Generators = dict[str, torch.Tensor]
"""State of all generators by name; each tensor is a copy of its own."""


def seed_all(seed: int) -> None:
    """Seed Python, NumPy, torch and all GPUs."""
    random.seed(seed)
    np.random.seed(seed)  # the global generator is what libraries use
    torch.manual_seed(seed)


def capture() -> Generators:
    """Copy the state of every generator. About 15 KB and 0.2 ms without GPUs."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert (version, kind) == (3, "MT19937")
    state = {
        "python.words": torch.tensor(words, dtype=torch.int64),
        "python.gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy.words": torch.tensor(np.asarray(keys).astype(np.int64), dtype=torch.int64),
        "numpy.position": torch.tensor([int(position), int(has_gauss)], dtype=torch.int64),
        "numpy.gauss": torch.tensor([float(cached)], dtype=torch.float64),
        "torch.cpu": torch.get_rng_state().clone(),
    }
    if torch.cuda.is_available():
        state |= {f"torch.cuda.{index}": value.clone() for index, value in enumerate(torch.cuda.get_rng_state_all())}
    return state


def restore(state: Generators) -> None:
    """Set every generator to a captured state. Generators of GPUs that are not here are left out."""
    gauss = state["python.gauss"].tolist()
    random.setstate((3, tuple(state["python.words"].tolist()), gauss[0] if gauss else None))
    position, has_gauss = state["numpy.position"].tolist()
    words = state["numpy.words"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", words, position, has_gauss, state["numpy.gauss"].item()))
    torch.set_rng_state(state["torch.cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if (name := f"torch.cuda.{index}") in state:
                torch.cuda.set_rng_state(state[name], index)
