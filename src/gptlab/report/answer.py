"""What a report says first: its headline, the finding in one sentence, a few large numbers, and how to repeat it."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gptlab.amounts import amount, duration
from gptlab.report.units import unit
from gptlab.runs.folder import RECIPE
from gptlab.runs.history import Run, columns, validated_texts
from gptlab.runs.metrics import Row

NAMED = 3  # so many runs are named in a headline


def headline(reached: Sequence[Row]) -> str:
    """Name the runs of a report."""
    names = [run["name"] for run in reached]
    if len(names) == 1:
        return names[0]
    if len(names) > NAMED:
        return f"{len(names)} runs compared"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def answer(runs: Sequence[Run], reached: Sequence[Row]) -> str:
    """State in one sentence what the runs reached, and what that does not show."""
    return _of_one(reached[0]) if len(runs) == 1 else _of_several(runs, reached)


def _of_one(run: Row) -> str:
    spent = f"{amount(run['tokens'])} tokens"
    if run["hours"] is not None:
        spent += f" and {duration(3600 * run['hours'])} of training"
    if run["best_loss"] is None:
        return f"{run['name']} has trained for {spent}; its loss on held-out text has not been measured yet."
    bits = f" ({run['bits_per_byte']:.4f} bits per byte)" if run["bits_per_byte"] is not None else ""
    return (
        f"{run['name']} reaches a validation loss of {run['best_loss']:.4f} nats per token{bits} at step "
        f"{run['best_step']:,}; in all it has trained for {spent}."
    )


def _of_several(runs: Sequence[Run], reached: Sequence[Row]) -> str:
    of = unit(runs)
    losses = [
        (factor * row["best_loss"], row["name"])
        for row, factor in zip(reached, of.factors, strict=True)
        if row["best_loss"] is not None and factor is not None
    ]
    texts = {
        text for row, text in zip(reached, validated_texts(runs), strict=True) if row["best_loss"] is not None
    }
    if len(losses) < 2:
        return "Fewer than two of these runs have a validation loss, so there is nothing to compare yet."
    if len(texts) > 1 and not of.bits:
        return "These runs were validated on different text, so their losses do not rank them."
    (best, name), (second, after), *_ = sorted(losses)
    if best == second:
        return f"{name} and {after} reach the same validation loss, {best:.4f} {of.name}."
    return (
        f"{name} reaches the lowest validation loss, {best:.4f} {of.name}, {second - best:.4f} below {after}; seeds "
        "move a loss too, so single runs do not rank their recipes."
    )


def tiles_of(reached: Sequence[Row], runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """Choose the numbers that stand large under the answer: those of one run, or of all together."""
    hours = [run["hours"] for run in reached if run["hours"] is not None]
    cells = [
        ("training tokens", amount(sum(run["tokens"] for run in reached)), _steps(reached)),
        ("training time", duration(3600 * sum(hours)) if hours else "", _machines(reached)),
    ]
    if len(runs) > 1:
        return [("runs", f"{len(runs)}", ""), *(cell for cell in cells if cell[1])]
    [run] = reached
    first: list[tuple[str, str, str]] = []
    if run["best_loss"] is not None:
        first.append(("validation loss", f"{run['best_loss']:.4f}", "nats per token"))
    if run["bits_per_byte"] is not None:
        first.append(("bits per byte", f"{run['bits_per_byte']:.4f}", "at the same step"))
    if run["parameters"]:
        first.append(("parameters", amount(run["parameters"]), ""))
    _, speed = columns(runs[0].metrics["step"], "tokens", "tokens_per_s")
    last = [("throughput", amount(float(np.median(speed))), "tokens a second, median")] if len(speed) else []
    return [*first, *(cell for cell in cells if cell[1]), *last]


def _steps(reached: Sequence[Row]) -> str:
    return f"{sum(run['steps'] for run in reached):,} steps" + (" in all" if len(reached) > 1 else "")


def _machines(reached: Sequence[Row]) -> str:
    names = dict.fromkeys(run["machine"] for run in reached if run["machine"])
    return next(iter(names)) if len(names) == 1 else f"{len(names)} kinds of machines" if names else ""


def repeat(runs: Sequence[Run], out: Path, reference: Path | None) -> list[str]:
    """List the commands that repeat the runs and this report; a run whose command is not known has its recipe's."""
    lines: list[str] = []
    for run in runs:
        words = run.environment.get("command")
        if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            lines.append(shlex.join([Path(words[0]).name, *words[1:]]))
        elif (run.folder / RECIPE).is_file():
            lines.append(shlex.join(["gptlab", "train", str(run.folder / RECIPE), "--out", run.name]))
    beside = ["--reference", str(reference)] if reference is not None else []
    return [
        *lines,
        shlex.join(["gptlab", "report", *(str(run.folder) for run in runs), *beside, "--out", str(out)]),
    ]
