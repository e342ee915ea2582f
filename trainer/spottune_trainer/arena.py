"""The adapter and AdamW's state of a run in two flat pieces of memory, laid out as a checkpoint writes them.

To copy a state is then to copy two pieces, however many tensors it has: a copy of each tensor alone takes twice as long as one of
all of them. What is computed with the tensors is not touched: each is a view of its own bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from spottune_trainer.tensorfile import Kind, Layout, layout

MOMENTS = ("exp_avg", "exp_avg_sq")
Parameters = Mapping[str, torch.nn.Parameter]


class Arena:
    """Moves parameters and their optimizer's state into flat memory on the parameters' device."""

    def __init__(self, parameters: Parameters, optimizer: torch.optim.Optimizer, *, steps_apart: bool | None = None) -> None:
        """`optimizer` is an AdamW of just these parameters. Its state is kept, or made as AdamW would make it in its first step.

        AdamW counts steps on the CPU: there the counters are part of `moments`, beside a GPU (`steps_apart`) they are a piece of their own.
        """
        self.parameters = parameters
        self.device = next(iter(parameters.values())).device
        self.adapter = layout(adapter_kinds(parameters))
        self.optimizer = layout(optimizer_kinds(parameters))
        self.weights = self._moved(self.adapter, dict(parameters))
        for name, view in _views(self.adapter, self.weights).items():
            parameters[name].data = view
        held = _held(parameters, optimizer)
        self.moments = self._moved(self.optimizer, held)
        self._views = _views(self.optimizer, self.moments)
        self.steps_apart = self.device.type != "cpu" if steps_apart is None else steps_apart
        self.steps = self._apart(held) if self.steps_apart else self.moments[self.step_bytes]
        for name, parameter in parameters.items():
            optimizer.state[parameter] = {key: self._views[_entry(key, name)] for key in ("step", *MOMENTS)}

    @property
    def step_bytes(self) -> slice:
        """Where the step counters are in `moments`."""
        begins = [place.begin for place in self.optimizer.places if place.name.startswith("step/")]
        return slice(min(begins) - len(self.optimizer.header), max(begins) - len(self.optimizer.header) + 4)

    def fill(self, adapter: Mapping[str, torch.Tensor], optimizer: Mapping[str, torch.Tensor]) -> None:
        """Copy tensors by the names of the files into place. No optimizer state: as before the first step."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(adapter[name])
                parameter.grad = None
            for name, view in self._views.items():
                view.copy_(optimizer[name]) if optimizer else view.zero_()

    def _moved(self, made: Layout, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The content of a file as uint8, without its header."""
        flat = torch.zeros(made.size - len(made.header), dtype=torch.uint8, device=self.device)
        with torch.no_grad():
            for name, view in _views(made, flat).items():
                if name in tensors:
                    view.copy_(tensors[name])
        return flat

    def _apart(self, held: Mapping[str, torch.Tensor]) -> torch.Tensor:
        steps = torch.zeros(len(self.parameters), dtype=torch.float32)
        for number, name in enumerate(sorted(self.parameters)):
            entry = _entry("step", name)
            steps[number] = held.get(entry, torch.tensor(0.0))
            self._views[entry] = steps[number]
        return steps.view(torch.uint8)


def adapter_kinds(parameters: Parameters) -> dict[str, Kind]:
    """Names, types and shapes of the adapter."""
    return {name: (p.dtype, tuple(p.shape)) for name, p in parameters.items()}


def optimizer_kinds(parameters: Parameters) -> dict[str, Kind]:
    """Names, types and shapes of AdamW's state after a step. Kind of number first, so that those of a kind lie side by side."""
    kinds: dict[str, Kind] = {}
    for name, p in parameters.items():
        kinds[_entry("step", name)] = (torch.float32, ())
        kinds |= {_entry(key, name): (p.dtype, tuple(p.shape)) for key in MOMENTS}
    return kinds


def _entry(key: str, name: str) -> str:
    return f"{key}/{name}"


def _held(parameters: Parameters, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {_entry(key, name): value for name, p in parameters.items() for key, value in optimizer.state.get(p, {}).items()}


def _views(made: Layout, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    return {place.name: place.view(flat, -len(made.header)) for place in made.places}
