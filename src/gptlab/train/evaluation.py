"""What is measured between steps, and put on record."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.machine.world import World
from gptlab.progress import duration
from gptlab.runs.metrics import MetricsLog, read_rows
from gptlab.train.console import Record


@dataclass(frozen=True)
class Evaluation:
    """Something to measure between steps; its rows go to the metrics and its line to the terminal."""

    kind: str
    name: str
    run: Callable[[], list[dict[str, Any]] | None]
    """Returns the rows, alike in all processes; None when it was cut short by a wish to stop."""
    rows: int = 1
    """How many rows it is on record with."""


def evaluate(
    evaluations: Sequence[Evaluation], *, step: int, tokens: int, record: Record, world: World
) -> float | None:
    """Measure all that is not yet on record for this step.

    Returns:
        The validation loss, where it is on record and a number; in the first process only.
    """
    log = record.log
    known = world.from_main(_known(log, step) if world.main else [])
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
                record.say(f"step {step} | {evaluation.name} | {_brief(row)}")
            if time.monotonic() - began > 60:
                took = duration(time.monotonic() - began)
                record.say(f"step {step} | {evaluation.name} took {took}")
    if not world.main:
        return None
    log.sync()
    losses = [row["loss"] for row in _rows(log, step) if row["kind"] == "val"]
    return losses[-1] if losses else None


def _rows(log: MetricsLog, step: int) -> list[dict[str, Any]]:
    return [row for row in read_rows(log.path, own=True) if row.get("step") == step]


def _known(log: MetricsLog, step: int) -> list[tuple[str, str]]:
    return [(row["kind"], row.get("task", row["kind"])) for row in _rows(log, step)]


def _brief(row: Mapping[str, Any]) -> str:
    """Write a row as `loss 3.2811  bits_per_byte 0.9871`: texts in quotes, and nothing that goes without saying."""
    zero = (name for name, value in row.items() if isinstance(value, int) and not value)
    dull = {"task", "items_sha256", *zero, *(name for name, value in row.items() if value is None)}
    said = {name: value for name, value in row.items() if name not in dull}
    return "  ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value!r}"
        for name, value in said.items()
    )
