"""The pictures of a study: loss and margins as means over seeds, and the loss against its cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gptlab.report.chart import FLOPS, TIME, Chart, Curve
from gptlab.report.cost import FLOPS_CAPTION, Cost
from gptlab.runs.history import Floats, Run, columns, validations
from gptlab.study.design import Arm


def charts(arms: Sequence[Arm], runs: dict[str, list[Run]]) -> list[Chart]:
    """Chart the validation loss, and the margin of scores, as means over seeds with their range."""
    band = "Each line is a mean over seeds, the band their range."
    curves: list[Curve] = []
    ends: list[Curve] = []
    scores: dict[str, list[Curve]] = {}
    for number, arm in enumerate(arms):
        if arm.name not in runs:
            continue
        tables = [columns(validations(run), "tokens", "loss") for run in runs[arm.name]]
        curve = _mean_curve(number, arm, runs[arm.name], tables)
        curves.append(curve)
        finals = np.array([y[-1] for _, y in tables])
        tokens = np.full(len(finals), float(arm.tokens))
        seconds = np.array(
            [seconds_at(run, x[-1:])[0] for run, (x, _) in zip(runs[arm.name], tables, strict=True)]
        )
        ends.append(
            Curve(
                number,
                tokens * arm.size.flops_per_token,
                finals,
                "points",
                f"{arm.name}: {finals.mean():.4f}",
                also={TIME: seconds},
            )
        )
        for task, rows in _margins(runs[arm.name]).items():
            made = [columns(each, "tokens", "margin") for each in rows]
            scores.setdefault(task, []).append(_mean_curve(number, arm, runs[arm.name], made))
    if not curves:
        return []
    lowest = min(float(curve.low.min()) for curve in curves if curve.low is not None)
    first = [float(curve.y[1] if len(curve.y) > 1 else curve.y[0]) for curve in curves]
    drawn = [
        Chart(
            "loss",
            "validation loss, nats per token",
            f"{band} {FLOPS_CAPTION} Time is that of training, on this machine.",
            curves,
            low=lowest - 0.02 * (max(first) - lowest),
            high=max(first),
        ),
        Chart(
            "front",
            "final loss against cost, nats per token",
            "A point for each run. The line joins the runs that no other run beats in both loss and cost.",
            ends,
            x_label=FLOPS,
            front=True,
        ),
    ]
    for task, made in scores.items():
        caption = (
            f"{band} The margin is the log-likelihood of the right ending for its length above the mean of the wrong "
            "ones; it moves before accuracy does."
        )
        drawn.append(
            Chart(
                f"margin_{len(drawn)}",
                f"margin of {task}, nats per unit of length",
                caption,
                made,
                [("no preference", 0.0)],
            )
        )
    return drawn


def _margins(runs: Sequence[Run]) -> dict[str, list[list[dict[str, Any]]]]:
    """Return the rows of each task's margin, run by run, where all runs have them."""
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for run in runs:
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in run.metrics["eval"]:
            if row.get("margin") is not None:
                rows.setdefault(f"{row['task']} ({row['protocol']})", []).append(row)
        for task, each in rows.items():
            found.setdefault(task, []).append(each)
    return {task: each for task, each in found.items() if len(each) == len(runs) and min(map(len, each)) > 1}


def _mean_curve(number: int, arm: Arm, runs: Sequence[Run], tables: Sequence[Sequence[Floats]]) -> Curve:
    """Average the runs' values at the steps that all have."""
    shared = sorted(set.intersection(*({*x.tolist()} for x, _ in tables)))
    tokens = np.array(shared)
    values = np.array(
        [[dict(zip(x.tolist(), y.tolist(), strict=True))[at] for at in shared] for x, y in tables]
    )
    seconds = np.array([seconds_at(run, tokens) for run in runs]).mean(0)
    mean = values.mean(0)
    return Curve(
        number,
        tokens,
        mean,
        "line",
        f"{arm.name}: {mean[-1]:.4f}",
        low=values.min(0),
        high=values.max(0),
        also={FLOPS: tokens * arm.size.flops_per_token, TIME: seconds},
    )


def seconds_at(run: Run, tokens: Floats) -> Floats:
    """Return the training time in seconds after each number of tokens; zeros if a run's speed is unknown."""
    return Cost(run).axes(tokens).get(TIME, np.zeros(len(tokens)))
