"""What a batch says about the weights."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Gradient:
    """What a batch says about the weights before they follow it; the same in every process."""

    loss: float
    """Mean over the batch's tokens, in nats."""
    norm: float
    """L2 norm of the gradient, before clipping."""
    overflow: bool = False
    """Whether it is not finite only because float16's scale is still too large for it."""

    @property
    def finite(self) -> bool:
        """Whether an update along it leaves the weights numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)
