"""Scores as charts: accuracy, margin and bits per byte of right answers, with what others report for the protocol."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from gptlab.eval import hellaswag, published
from gptlab.eval.chance import CHANCE
from gptlab.report.chart import Chart, Curve
from gptlab.report.colours import numbers
from gptlab.report.cost import Cost
from gptlab.report.page_folder import file_name
from gptlab.report.results import ANSWER_BITS, accuracy, doubt, score, told_items
from gptlab.runs.history import Floats, Run, columns
from gptlab.runs.metrics import ACCURACIES, Row, items_of


class Group(NamedTuple):
    """What two scores must share to stand in one column or picture."""

    task: str
    protocol: str
    shots: int
    n: int
    items: str
    """The identity of the items; see `metrics.items_of`."""

    @property
    def file_name(self) -> str:
        """The name of its picture, without an ending."""
        return file_name(f"{self.task} {self.protocol} {self.shots}-shot n = {self.n} {self.items}")


def group_of(row: Row) -> Group:
    """Return what a score must share with another to stand next to it."""
    protocol = f"{row['protocol']} {row.get('lm_eval', '')}".strip()
    return Group(row["task"], protocol, row["shots"], row["n"], items_of(row))


def groups_of(rows: Iterable[Row]) -> dict[Group, str]:
    """Return the groups of scores in their order, each with what it is called."""
    found: dict[Group, list[Row]] = {}
    for row in rows:
        found.setdefault(group_of(row), []).append(row)
    order = sorted(found, key=lambda group: (group.task != "hellaswag", group))
    return {
        group: f"{group.task}, {group.protocol}, {group.shots}-shot, n = {group.n:,}, {told_items(found[group])}"
        for group in order
    }


def score_charts(runs: Sequence[Run]) -> list[Chart]:
    """Chart what was measured against cost, for each task, protocol, shots and items."""
    charts: list[Chart] = []
    measured = [row for run in runs for row in run.metrics["eval"]]
    for group, called in groups_of(measured).items():
        of_run = [[row for row in run.metrics["eval"] if group_of(row) == group] for run in runs]
        charts.append(_accuracy_chart(group, called, runs, of_run))
        charts += _measure_charts(group, called, runs, of_run)
    return charts


def _accuracy_chart(group: Group, called: str, runs: Sequence[Run], of_run: Sequence[Sequence[Row]]) -> Chart:
    measured = [row for rows in of_run for row in rows]
    name = accuracy(measured) or "acc"
    curves: list[Curve] = []
    for number, run, rows in zip(numbers(runs), runs, of_run, strict=True):
        x, y, error = columns(rows, "tokens", name, ACCURACIES[name])
        if len(y):
            said = filter(None, (f"{run.name}: {score(rows[-1], name)}", doubt(rows[-1], name)))
            curves.append(_curve(number, run, x, 100 * y, 100 * error, ", ".join(said)))
    whole = group.n == hellaswag.VALIDATION_ITEMS and any(row.get("official") for row in measured)
    references, note = _references(group, whole)
    caption = f"{called}: {name} during training, with a band or bar of one standard error.{note}"
    title = f"{group.task} ({group.protocol}), {name} in %"
    return Chart(group.file_name, title, caption, curves, references)


def _measure_charts(
    group: Group, called: str, runs: Sequence[Run], of_run: Sequence[Sequence[Row]]
) -> list[Chart]:
    """Chart what is measured besides accuracy, where any run has it."""
    what, spread = f"{group.task} ({group.protocol})", "with a band or bar of one standard error"
    margin = Chart(
        f"{group.file_name}_margin",
        f"{what}, margin of the right choice in nats",
        f"{called}: by how much the right choice is likelier than the mean of the wrong ones, in nats per unit of "
        f"length, {spread}. It rises long before the accuracy leaves chance.",
        _curves("margin", "stderr_margin", runs, of_run),
        [("no preference", 0.0)],
    )
    bits = Chart(
        f"{group.file_name}_bits",
        f"{what}, bits per byte of the right answer",
        f"{called}: bits per byte that the right answer costs, {spread}. Fewer are better; of small models they are "
        "mostly a less noisy measure than accuracy.",
        _curves(ANSWER_BITS, f"{ANSWER_BITS}_stderr", runs, of_run),
    )
    return [chart for chart in (margin, bits) if chart.curves]


def _curves(value: str, spread: str, runs: Sequence[Run], of_run: Sequence[Sequence[Row]]) -> list[Curve]:
    curves: list[Curve] = []
    for number, run, rows in zip(numbers(runs), runs, of_run, strict=True):
        x, y, error = columns(rows, "tokens", value, spread)
        if len(y):
            said = f"{run.name}: {y[-1]:.4f}"
            said += f" \N{PLUS-MINUS SIGN} {error[-1]:.4f}" if np.isfinite(error[-1]) else ""
            curves.append(_curve(number, run, x, y, error, said))
    return curves


def _curve(number: int, run: Run, x: Floats, y: Floats, error: Floats, label: str) -> Curve:
    known = bool(np.isfinite(error).any())
    low, high = (y - error, y + error) if known else (None, None)
    return Curve(number, x, y, "line and points", label, low, high, Cost(run).axes(x))


def _references(group: Group, whole: bool) -> tuple[list[tuple[str, float]], str]:
    """Return the lines that belong next to a group's scores, and what the caption says of published ones.

    Args:
        group: of the scores.
        whole: whether they are on the same items as the published ones: all that are official.
    """
    task, protocol, shots, *_ = group
    lines = [("chance", 100 * CHANCE[task])] if task in CHANCE else []
    said = ""
    for entry in published.beside(protocol, shots) if task == "hellaswag" else ():
        if entry.acc_norm is None:
            continue
        label = f"{entry.model} {100 * entry.acc_norm:.4g}"
        lines.append((label, 100 * entry.acc_norm))
        said += f" {label}, on all {hellaswag.VALIDATION_ITEMS:,} items: {entry.source}."
    return lines, said + " The scores here are on other items." * bool(said and not whole)
