"""Tables and remarks about runs: what they reached, how their recipes differ, and the story of each."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gptlab.amounts import amount
from gptlab.report.page import DASH, details, link, link_to, paragraph, samples, table
from gptlab.report.results import ANSWER_BITS, CALLED, doubt, results, score
from gptlab.report.score_charts import group_of, groups_of
from gptlab.runs.changes import spelled
from gptlab.runs.history import Run
from gptlab.runs.metrics import ACCURACIES, Row

SAMPLES = 6


def runs_table(reached: Sequence[Row], texts: Sequence[str | None]) -> str:
    """Set the facts of runs as a table; losses on different texts, the `texts`, stand in different columns."""
    scores = [{group_of(row): row for row in run["scores"]} for run in reached]
    columns = [
        (group, called, name)
        for group, called in groups_of(row for part in scores for row in part.values()).items()
        for name in dict.fromkeys(name for part in scores for name in results(part.get(group, {})))
        if name != ANSWER_BITS  # which the table of what scores can tell has
    ]
    validated = dict.fromkeys(
        text for run, text in zip(reached, texts, strict=True) if run["best_loss"] is not None
    ) or {None: None}
    head = ["run", "parameters", "tokens"]
    for sha256 in validated:
        on = f"\non {sha256[:8] if sha256 else 'text not on record'}" if len(validated) > 1 else ""
        head += [f"best\nvalidation\nloss{on}", f"at step{on}", f"bits\nper byte{on}"]
    head += [
        called.replace(", ", "\n") + f"\n{CALLED.get(name, name)}" + (", %" if name in ACCURACIES else "")
        for _, called, name in columns
    ]
    rows = [
        [
            link(run["name"], f"#run-{number}") if len(reached) > 1 else run["name"],
            _cell(run["parameters"], amount),
            _cell(run["tokens"], amount),
            *(cell for sha256 in validated for cell in _loss_cells(run, sha256 == text)),
            *(_cell(part.get(group), lambda row, name=name: _score(row, name)) for group, _, name in columns),
            _cell(run["hours"], "{:.2f}".format),
            _cell(run["machine"]),
            _cell(run["gptlab"]),
        ]
        for number, (run, part, text) in enumerate(zip(reached, scores, texts, strict=True))
    ]
    return table([*head, "hours", "machine", "gptlab"], rows)


def _loss_cells(run: Row, there: bool) -> list[str]:
    """Write what a run has reached on a validation set; dashes where it was not validated there."""
    if not there:
        return [DASH] * 3
    return [
        _cell(run["best_loss"], "{:.4f}".format),
        _cell(run["best_step"], "{:,}".format),
        _cell(run["bits_per_byte"], "{:.4f}".format),
    ]


def _score(row: Row, name: str) -> str:
    return "\n".join(filter(None, (score(row, name), doubt(row, name))))


def _cell(value: Any, form: Callable[[Any], str] = str) -> str:
    return DASH if value is None else form(value)


def differences_table(reached: Sequence[Row]) -> str:
    """Set the settings in which the recipes of runs differ, from the facts of the runs."""
    keys = sorted({key for run in reached for key in run["differences"]})
    if not keys:
        return paragraph("Nothing: all recipes are the same.")
    first = {key: run["differences"][key][0] for run in reached for key in run["differences"]}
    rows = [
        [key, _value(first[key])]
        + [_value(run["differences"][key][1]) if key in run["differences"] else "" for run in reached[1:]]
        for key in keys
    ]
    return table(["key", *(run["name"] for run in reached)], rows)


def _value(value: Any) -> str:
    return "absent" if value is None else spelled(value)


def stories(runs: Sequence[Run], out: Path) -> str:
    """Set the story of each run: where it came from, what happened to it, and what it wrote last."""
    if len(runs) == 1:
        return _story(runs[0], out)
    return "".join(details(run.name, _story(run, out), f"run-{number}") for number, run in enumerate(runs))


def _story(run: Run, out: Path) -> str:
    told = {
        key: shlex.join(value) if isinstance(value, list) else value for key, value in run.environment.items()
    }
    origin = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in told.items() if value is not None)
    events = ", ".join(f"{row.get('event')} at step {row.get('step')}" for row in run.metrics["event"])
    written = run.metrics["sample"]
    last = [row for row in written if row["step"] == written[-1]["step"]][:SAMPLES]
    parts = [paragraph(link_to(run.folder, out)), paragraph(origin, "faint")]
    parts += [paragraph(f"Events: {events}.", "faint")] if events else []
    rate = run.highest_rate
    parts += (
        [paragraph(f"Highest learning rate of its steps: {rate:g}.", "faint")] if rate is not None else []
    )
    changed = "; ".join(f"{key} {run.setting(key)}" for key in run.changes)
    parts += [paragraph(f"Trained under settings that changed: {changed}.", "note")] if changed else []
    parts += [paragraph(f"What it writes at step {last[0]['step']:,}:"), samples(last)] if last else []
    return "".join(parts)
