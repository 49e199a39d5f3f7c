"""Evaluations between steps, and their rows in the metrics."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.amounts import duration
from gptlab.machine.world import World
from gptlab.runs.metrics import MetricsLog, read_rows
from gptlab.train.step_reporter import StepReporter


@dataclass(frozen=True)
class Evaluation:
    """A measurement between steps; its rows go to the metrics and its line to the terminal."""

    kind: str
    name: str
    run: Callable[[], list[dict[str, Any]] | None]
    """Returns the rows, the same in all processes; None if a request to stop cut it short."""
    say: Callable[[Mapping[str, Any]], str]
    """Puts a row into words."""
    about: str = ""
    """What it asks, where its name does not say so."""
    rows: int = 1
    """How many rows it writes."""


def evaluate(
    evaluations: Sequence[Evaluation], *, step: int, tokens: int, reporter: StepReporter, world: World
) -> float | None:
    """Run the evaluations that have no rows for this step yet.

    Returns:
        The validation loss if it is a finite number, in the first process; None in the others.
    """
    log = reporter.log
    measured = [(row["kind"], row.get("task", row["kind"])) for row in _rows(log, step)] if world.main else []
    known = world.from_main(measured)
    for evaluation in evaluations:
        if known.count((evaluation.kind, evaluation.name)) >= evaluation.rows:
            continue
        began = time.monotonic()
        rows = evaluation.run()
        if rows is None:
            break
        if world.main:
            for row in rows:
                log.write(evaluation.kind, step=step, tokens=tokens, **row)
                reporter.say(f"step {step} | {evaluation.say(row)}")
            if time.monotonic() - began > 60:
                took = duration(time.monotonic() - began)
                reporter.say(f"step {step} | {evaluation.name} took {took}")
    if not world.main:
        return None
    log.sync()
    losses = [row["loss"] for row in _rows(log, step) if row["kind"] == "val"]
    return losses[-1] if losses else None


def _rows(log: MetricsLog, step: int) -> list[dict[str, Any]]:
    return [row for row in read_rows(log.path, own=True) if row.get("step") == step]
