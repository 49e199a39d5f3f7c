"""The loss of runs as a picture."""

from collections.abc import Sequence

import numpy as np

from gptlab.report.page import Chart, Curve
from gptlab.runs.history import Floats, Run, columns, validated_texts, validations

SMOOTH_FRACTION = 0.04


FRAME_PERCENTILES = (0.1, 93)  # of the training loss: the steep start would flatten all that follows


def smooth(y: Floats) -> Floats:
    """Average over a centred window, which narrows at the steep start and is cut short at the flat end."""
    index = np.arange(len(y))
    half = np.minimum(index, int(len(y) * SMOOTH_FRACTION / 2))
    end = np.minimum(index + half + 1, len(y))
    sums = np.concatenate([[0.0], np.cumsum(y)])
    return (sums[end] - sums[index - half]) / (end - index + half)


def loss_chart(runs: Sequence[Run]) -> Chart:
    """Chart training and validation loss against tokens, framed where runs can be told apart."""
    curves: list[Curve] = []
    bounds: list[Floats] = []
    for number, run in enumerate(runs):
        x, y = columns(run.metrics["step"], "tokens", "loss")
        val_x, val_y = columns(validations(run), "tokens", "loss")
        best = f"best validation {val_y.min():.4f}" if len(val_y) else "not validated yet"
        curves += [Curve(number, x, y, "faint"), Curve(number, x, smooth(y), label=f"{run.name}: {best}")]
        curves += [Curve(number, val_x, val_y, "points")]
        bounds += [np.percentile(y, FRAME_PERCENTILES)] if len(y) else []
    caption = (
        "Loss against training tokens. Points: validation. Lines: training, averaged over "
        f"{SMOOTH_FRACTION:.0%} of the steps, each step faint behind. "
        "The beginning and any spike lie above the frame."
    )
    if len({text for run, text in zip(runs, validated_texts(runs), strict=True) if validations(run)}) > 1:
        caption += " These runs were validated on different text: their points cannot be compared."
    frame = (min(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else (None, None)
    return Chart("loss", "loss, nats a token", caption, curves, low=frame[0], high=frame[1])
