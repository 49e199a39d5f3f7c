"""Runs as charts: loss, its front against cost, learning rate and throughput."""

from collections.abc import Sequence

import numpy as np

from gptlab.amounts import amount
from gptlab.report.chart import FLOPS, TOKENS, Chart, Curve
from gptlab.report.colours import numbers
from gptlab.report.cost import FLOPS_CAPTION, Cost
from gptlab.report.units import Unit, unit
from gptlab.runs.history import Floats, Run, columns, validated_texts, validations

SMOOTH_FRACTION = 0.04
FRAME_PERCENTILES = (0.1, 93)  # of the training loss: the steep start would flatten all that follows
BITS_CAPTION = (
    "The runs' tokenizers differ, so losses are bits per byte and not nats per token; training losses are converted "
    "with the bytes a token of the validation text."
)


def smooth(y: Floats) -> Floats:
    """Average over a centred window, which narrows at the steep start and is cut short at the flat end."""
    index = np.arange(len(y))
    half = np.minimum(index, int(len(y) * SMOOTH_FRACTION / 2))
    end = np.minimum(index + half + 1, len(y))
    sums = np.concatenate([[0.0], np.cumsum(y)])
    return (sums[end] - sums[index - half]) / (end - index + half)


def loss_chart(runs: Sequence[Run], references: Sequence[tuple[str, float]] = ()) -> Chart:
    """Chart training and validation loss against cost, framed where runs can be told apart.

    Args:
        runs: the runs.
        references: other models and their losses on the same tokens, in nats per token; a line across for each.
    """
    of = unit(runs)
    curves: list[Curve] = []
    bounds: list[Floats] = []
    for number, run, factor in zip(numbers(runs), runs, of.factors, strict=True):
        if factor is None:
            continue
        x, y = columns(run.metrics["step"], "tokens", "loss")
        val_x, val_y = columns(validations(run), "tokens", "loss")
        y, val_y = factor * y, factor * val_y
        best = f"best validation {val_y.min():.4f}" if len(val_y) else "not validated yet"
        cost = Cost(run)
        also = cost.axes(x)
        curves += [
            Curve(number, x, y, "faint", also=also),
            Curve(number, x, smooth(y), label=f"{run.name}: {best}", also=also),
            Curve(number, val_x, val_y, "points", also=cost.axes(val_x)),
        ]
        bounds += [np.percentile(y, FRAME_PERCENTILES)] if len(y) else []
    caption = (
        "Points: validation. Lines: training, averaged over "
        f"{SMOOTH_FRACTION:.0%} of the steps, each step faint behind. "
        "The beginning and any spike lie above the frame."
    )
    caption = " ".join([f"Loss during training. {caption}", *_remarks(runs, of), *_cost(curves)])
    one = next(filter(None, of.factors), 1.0)  # of one text, and so of all runs that references stand beside
    lines = [(f"{model} {one * loss:.4f}", one * loss) for model, loss in references]
    if lines:
        caption += " Lines across: other models, scored on the same held-out tokens."
    if bounds:
        bounds += [value * np.array([0.99, 1.01]) for _, value in lines]
    frame = (min(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else (None, None)
    return Chart("loss", f"loss, {of.name}", caption, curves, lines, low=frame[0], high=frame[1])


def _remarks(runs: Sequence[Run], of: Unit) -> list[str]:
    """List what a reader must know to compare the losses of these runs."""
    said = [BITS_CAPTION] if of.bits else []
    left_out = [run.name for run, factor in zip(runs, of.factors, strict=True) if factor is None]
    if left_out:
        said.append(f"Left out, as their bits per byte are not on record: {', '.join(left_out)}.")
    if len({text for run, text in zip(runs, validated_texts(runs), strict=True) if validations(run)}) > 1:
        # With other tokenizers, as many tokens reach another distance into one text.
        cannot = "are not strictly comparable" if of.bits else "cannot be compared"
        said.append(f"These runs were validated on different text: their points {cannot}.")
    return said


def _cost(curves: Sequence[Curve]) -> list[str]:
    return [FLOPS_CAPTION] if any(FLOPS in curve.also for curve in curves) else []


def front_chart(runs: Sequence[Run]) -> Chart | None:
    """Chart each run's best validation loss against what it had cost by then; None unless several compare."""
    of = unit(runs)
    texts = {text for run, text in zip(runs, validated_texts(runs), strict=True) if validations(run)}
    if len(texts) > 1 and not of.bits:
        return None
    curves: list[Curve] = []
    for number, run, factor in zip(numbers(runs), runs, of.factors, strict=True):
        x, y = columns(validations(run), "tokens", "loss")
        if factor is not None and len(y):
            best = slice(int(y.argmin()), int(y.argmin()) + 1)
            also = Cost(run).axes(x[best])
            label = f"{run.name}: {factor * y.min():.4f}"
            curves.append(Curve(number, x[best], factor * y[best], "points", label, also=also))
    if len(curves) < 2:
        return None
    caption = (
        "The best validation loss of each run against what the run had cost by then. The line is the front: no run "
        "below it for the same cost or less. A single run of each says little, as seeds move a loss too."
    )
    caption = " ".join([caption, *_remarks(runs, of), *_cost(curves)])
    if all(FLOPS in curve.also for curve in curves):  # the axis on which recipes differ at equal tokens
        curves = [
            Curve(
                curve.run,
                curve.also[FLOPS],
                curve.y,
                curve.style,
                curve.label,
                also={TOKENS: curve.x, **{name: x for name, x in curve.also.items() if name != FLOPS}},
            )
            for curve in curves
        ]
        return Chart("front", f"best validation loss, {of.name}", caption, curves, x_label=FLOPS, front=True)
    return Chart("front", f"best validation loss, {of.name}", caption, curves, front=True)


def rate_charts(runs: Sequence[Run]) -> list[Chart]:
    """Chart learning rate and throughput against cost."""
    rates: list[Curve] = []
    speeds: list[Curve] = []
    for number, run in zip(numbers(runs), runs, strict=True):
        cost = Cost(run)
        x, y = columns(run.metrics["step"], "tokens", "lr")
        if len(y):
            rates.append(Curve(number, x, y, label=f"{run.name}: peak {y.max():.2g}", also=cost.axes(x)))
        x, y = columns(run.metrics["step"], "tokens", "tokens_per_s")
        if len(y):
            _, mfu = columns(run.metrics["step"], "tokens", "mfu")
            share = f", {np.median(mfu):.0%} of peak" if len(mfu) else ""
            label = f"{run.name}: median {amount(float(np.median(y)))}{share}"
            also = cost.axes(x)
            speeds += [
                Curve(number, x, y, "faint", also=also),
                Curve(number, x, smooth(y), label=label, also=also),
            ]
    caption = (
        f"Throughput of training, averaged over {SMOOTH_FRACTION:.0%} of the steps, each step faint behind."
    )
    return [
        Chart("learning_rate", "learning rate", "Learning rate of each step.", rates, low=0),
        Chart("throughput", "tokens a second", caption, speeds, low=0),
    ]
