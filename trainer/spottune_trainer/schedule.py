"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak` over `warmup` steps, then constant, linear to 0 or a half cosine to 0 at `total`."""

    kind: Literal["constant", "linear", "cosine"]
    peak: float
    warmup: int
    total: int

    def rate(self, step: int) -> float:
        """Learning rate of the optimizer step with 0-based index `step`.

        Warm-up counts from 1, so that the very first step already learns; the rate reaches 0 only after the last step.
        """
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        if self.kind == "constant":
            return self.peak
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        if self.kind == "linear":
            return self.peak * (1.0 - done)
        return self.peak * 0.5 * (1.0 + math.cos(math.pi * done))
