"""What happened in each step of the lineage: saved with the state, equal to the bit in two equal runs. No clock enters it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class History:
    """One entry per finished optimizer step, in order, and one per evaluation."""

    loss: list[float] = field(default_factory=list)
    """Mean cross entropy per target token of the global batch, nats, float64."""
    learning_rate: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    """Global L2 norm before clipping."""
    targets: list[int] = field(default_factory=list)
    """Tokens that carried loss."""
    samples: list[bytes] = field(default_factory=list)
    """SHA-256 of the sample indices of the step."""
    eval_step: list[int] = field(default_factory=list)
    """Finished optimizer steps at each evaluation; 0 is the base model."""
    eval_loss: list[float] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return len(self.loss)

    def tensors(self) -> dict[str, torch.Tensor]:
        """As tensors to save; `samples` has shape [steps, 32] and type uint8."""
        digests = (
            torch.frombuffer(bytearray(b"".join(self.samples)), dtype=torch.uint8) if self.samples else torch.empty(0, dtype=torch.uint8)
        )
        return {
            "loss": torch.tensor(self.loss, dtype=torch.float64),
            "learning_rate": torch.tensor(self.learning_rate, dtype=torch.float64),
            "grad_norm": torch.tensor(self.grad_norm, dtype=torch.float64),
            "targets": torch.tensor(self.targets, dtype=torch.int64),
            "samples": digests.reshape(-1, 32),
            "eval.step": torch.tensor(self.eval_step, dtype=torch.int64),
            "eval.loss": torch.tensor(self.eval_loss, dtype=torch.float64),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor], steps: int) -> History:
        """Read it back. Raises `ValueError` if it is not the history of exactly `steps` steps."""
        expected = cls().tensors()
        if tensors.keys() != expected.keys():
            raise ValueError(f"history has the columns {sorted(tensors)}, not {sorted(expected)}")
        for name, tensor in tensors.items():
            if tensor.dtype != expected[name].dtype or tensor.shape[1:] != expected[name].shape[1:]:
                raise ValueError(f"history column {name} is {tensor.dtype} {tuple(tensor.shape)}")
            if not name.startswith("eval.") and len(tensor) != steps:
                raise ValueError(f"history column {name} has {len(tensor)} entries, the state has {steps} steps")
        if len(tensors["eval.step"]) != len(tensors["eval.loss"]):
            raise ValueError("history has evaluations without a loss")
        digests = tensors["samples"].numpy().tobytes()
        return cls(
            tensors["loss"].tolist(),
            tensors["learning_rate"].tolist(),
            tensors["grad_norm"].tolist(),
            tensors["targets"].tolist(),
            [digests[at : at + 32] for at in range(0, len(digests), 32)],
            tensors["eval.step"].tolist(),
            tensors["eval.loss"].tolist(),
        )
