"""The loss and gradient norm of a batch."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class StepStats:
    """The loss and gradient norm of a batch, before the update; the same in every process."""

    loss: float
    """Mean over the batch's tokens, in nats."""
    norm: float
    """L2 norm of the gradient, before clipping."""
    overflow: bool = False
    """Whether the gradient is not finite only because float16's loss scale is still too large."""

    @property
    def finite(self) -> bool:
        """Whether an update keeps the weights finite."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)
