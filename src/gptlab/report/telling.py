"""Which tasks tell models of this size apart: by what is published of small models, and by the scores' own errors."""

import math
from collections.abc import Sequence

from gptlab.eval.chance import CHANCE
from gptlab.eval.published import ORDERED_AT_150M
from gptlab.report.page import DASH, heading, paragraph, table
from gptlab.report.results import ANSWER_BITS, accuracy, doubt, results, score, standard_error
from gptlab.report.score_charts import Group, group_of, groups_of
from gptlab.runs.metrics import Row

APART = 3
"""Standard errors between two scores that show a difference: twice the root of two, as both scores have errors."""
NOTE = (
    "Published: of all pairs of 25 training corpora, the share that models of 150M parameters order on this task as "
    "models of 1B do (allenai/signal-and-noise, with OLMES's prompts, so not the ones here); WinoGrande orders "
    f"{100 * ORDERED_AT_150M['winogrande']:.0f} % and BoolQ {100 * ORDERED_AT_150M['boolq']:.0f} %, as a coin does. A "
    "score that guessing reaches says nothing yet of its model. Bits per byte are those of the right answer; fewer are "
    "better. The gap is that between two runs; gptlab eval A B "
    "compares item by item and sees smaller ones."
)


def telling(reached: Sequence[Row]) -> str:
    """Set what the last scores of runs can tell as a table; "" if there are none with an accuracy.

    Args:
        reached: facts of the runs.
    """
    scores = [{group_of(row): row for row in run["scores"]} for run in reached]
    every = groups_of(row for part in scores for row in part.values())
    head = [
        "task",
        "published,\nat 150M, %",
        "chance, %",
        *(run["name"] for run in reached),
        "least gap that shows, points",
    ]
    rows = [
        _cells(group, name, [part.get(group) for part in scores])
        for group in every
        if (name := accuracy(part[group] for part in scores if group in part)) is not None
    ]
    if not rows:
        return ""
    return heading("What these scores can tell") + table(head, rows) + paragraph(NOTE, "faint")


def _cells(group: Group, name: str, rows: Sequence[Row | None]) -> list[str]:
    task = group.task
    errors = [standard_error(row, name) for row in rows if row is not None]
    error = max(filter(math.isfinite, errors), default=0.0)
    return [
        f"{task}, {name}\n{group.protocol}, {group.shots}-shot, n = {group.n:,}",
        f"{100 * ORDERED_AT_150M[task]:.0f}" if task in ORDERED_AT_150M else DASH,
        f"{100 * CHANCE[task]:.0f}" if task in CHANCE else DASH,
        *(_said(row, name) for row in rows),
        f"{100 * APART * error:.1f}" if error else DASH,
    ]


def _said(row: Row | None, name: str) -> str:
    if row is None or name not in results(row):
        return DASH
    lines = [score(row, name)]
    if row["task"] in CHANCE:
        lines.append("above chance" if doubt(row, name) is None else "says nothing yet")
    if ANSWER_BITS in results(row):
        lines.append(f"{score(row, ANSWER_BITS)} bits per byte")
    return "\n".join(lines)
