"""What a run costs: tokens, floating-point operations and time, the x axes of its curves."""

import math

import numpy as np

from gptlab.report.chart import FLOPS, TIME
from gptlab.runs.history import Floats, Run, as_number, training_clock

FLOPS_CAPTION = (
    "FLOPs are counted, not measured: for each token 6 a parameter of the blocks and the output head, and 12 x layers "
    "x width x context for attention (PaLM, appendix B). Time is that of the training steps, without evaluations."
)


def flops_per_token(run: Run) -> float | None:
    """Return the operations of a forward and a backward pass for each token; None if the run does not tell its size.

    Source: Chowdhery et al. (2022), PaLM, https://arxiv.org/abs/2204.02311, appendix B. Counted from the run's files,
    where biases and norms are among the parameters: 1 % more than `gptlab.model.size` counts at a width of 128, 0.1 %
    at 768.
    """
    names = ("n_layer", "n_embd", "context", "vocab_size")
    layers, width, context, vocabulary = (as_number(run.config.get(f"model.{name}")) for name in names)
    blocks = as_number(run.environment.get("parameters_non_embedding"))
    flops = 6 * (blocks + vocabulary * width) + 12 * layers * width * context
    return flops if math.isfinite(flops) else None


class Cost:
    """What a run had cost at any time.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self._per_token, self._clock = flops_per_token(run), training_clock(run.metrics["step"])

    def axes(self, tokens: Floats) -> dict[str, Floats]:
        """Return the other x axes after so many tokens: operations, and seconds of training, where known."""
        known = {FLOPS: tokens * self._per_token} if self._per_token is not None else {}
        return known | ({TIME: np.interp(tokens, *self._clock)} if self._clock is not None else {})
