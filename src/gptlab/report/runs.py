"""Reports: run folders to one page, its pictures beside it, and the same facts as a mapping.

A report knows files, not torch, so it is written wherever the folders are: `metrics.jsonl`, and where they
exist `config.toml` and `environment.json`. Numbers that cannot be compared are kept apart here, and what else
makes a comparison unfair is said under the table.
"""

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import gptlab
from gptlab.eval import hellaswag, published
from gptlab.eval.chance import CHANCE
from gptlab.outputs import Record, fingerprint
from gptlab.progress import Progress
from gptlab.report.charts import SMOOTH_FRACTION, loss_chart, smooth
from gptlab.report.page import (
    DASH,
    INDEX,
    Chart,
    Curve,
    amount,
    draw,
    figure,
    file_name,
    heading,
    page,
    paragraph,
    refuse,
    samples,
    table,
    write,
)
from gptlab.report.results import doubt, results, score, told_items
from gptlab.runs.folder import identity
from gptlab.runs.history import (
    TEXT_SETTINGS,
    Run,
    columns,
    read_runs,
    training_hours,
    validated_texts,
    validations,
)
from gptlab.runs.metrics import ACCURACIES, Row, items_of

KIND = "report"

PARAMETERS_APART = 1.02
SAMPLES = 6
FOOTNOTE = (
    "Losses are nats a token; bits per byte are those of the same step. A score is that of the last step at which "
    "these items were asked, in training or later by gptlab eval, with one standard error, that of drawing the items: "
    "between scores less than three of them apart no difference is shown. A larger one is a difference of these "
    "checkpoints; of recipes it says nothing, as two seeds of one recipe differ as well. Above chance is what guessing "
    "reaches less than once in twenty times (exact binomial test). "
    "Hours are those of the training steps that count, without evaluations and without what a kill undid."
)


def facts(run: Run, first: Run) -> Row:
    """Say what a run is and has reached, ready for JSON; None where its files do not tell.

    Args:
        run: the run.
        first: the run to which its recipe is compared.
    """
    steps, environment = run.metrics["step"], run.environment
    last: Row = steps[-1] if steps else {"step": 0, "tokens": 0}
    best: Row = min(validations(run), key=lambda row: row["loss"], default={})
    machine, processes = environment.get("device"), environment.get("processes", 1)
    scores = {_group(row): row for row in run.metrics["eval"]}
    changed = {key for one in (first, run) for key in one.changes if "." in key}
    keys = first.config.keys() | run.config.keys() | changed
    return {
        "name": run.name,
        "folder": str(run.folder),
        "parameters": environment.get("parameters"),
        "steps": last["step"],
        "planned_steps": run.planned_steps,
        "tokens": last["tokens"],
        "highest_rate": run.highest_rate,
        "changes": {key: [list(each) for each in values] for key, values in run.changes.items()},
        "best_loss": best.get("loss"),
        "best_step": best.get("step"),
        "bits_per_byte": best.get("bits_per_byte"),
        "validation_sha256": validated_texts([run])[0],
        "scores": [scores[group] for group in _groups(scores.values())],
        "hours": training_hours(steps),
        "machine": f"{processes} x {machine}" if machine and processes > 1 else machine,
        "gptlab": environment.get("gptlab"),
        "differences": {
            key: [first.setting(key), run.setting(key)]
            for key in sorted(keys)
            if first.setting(key) != run.setting(key)
        },
        "events": run.metrics["event"],
    }


class Group(NamedTuple):
    """What two scores must share to stand in one column or picture."""

    task: str
    protocol: str
    shots: int
    n: int
    items: str
    """What tells them from others; see `metrics.items_of`."""

    @property
    def file_name(self) -> str:
        """The name of its picture, without an ending."""
        return file_name(f"{self.task} {self.protocol} {self.shots}-shot n = {self.n} {self.items}")


def _group(row: Row) -> Group:
    protocol = f"{row['protocol']} {row.get('lm_eval', '')}".strip()
    return Group(row["task"], protocol, row["shots"], row["n"], items_of(row))


def _groups(rows: Iterable[Row]) -> dict[Group, str]:
    """Return the groups of scores in their order, each with what it is called."""
    found: dict[Group, list[Row]] = {}
    for row in rows:
        found.setdefault(_group(row), []).append(row)
    order = sorted(found, key=lambda group: (group.task != "hellaswag", group))
    return {
        group: f"{group.task}, {group.protocol}, {group.shots}-shot, n = {group.n:,}, {told_items(found[group])}"
        for group in order
    }


def notes(runs: Sequence[Run], reached: Sequence[Row]) -> list[str]:
    """Say, a sentence each, what makes a comparison of these runs unfair; `reached` are their facts."""

    def apart(*keys: str) -> bool:
        return len({str([run.setting(key) for key in keys]) for run in runs}) > 1

    sizes = [row["parameters"] for row in reached if row["parameters"]]
    validated = [
        (row["name"], text)
        for row, text in zip(reached, validated_texts(runs), strict=True)
        if row["best_loss"] is not None
    ]
    texts = {text for _, text in validated}
    other_text = len(texts) > 1 if texts - {None} else apart(*TEXT_SETTINGS)
    unknown = [name for name, text in validated if text is None] if len(texts) > 1 else []
    differences = {
        "tokens": len({row["tokens"] for row in reached}) > 1,
        "parameters": bool(sizes) and max(sizes) > PARAMETERS_APART * min(sizes),
        "validation set": other_text,
        "batch_tokens": apart("train.batch_tokens"),
    }
    names = ", ".join(name for name, differ in differences.items() if differ)
    said = [f"These runs differ in {names}: compare with care."] * bool(names)
    said += [
        f"{name}: the text it was validated on is not on record, as an older gptlab kept none, and its settings do not "
        "say that it is another run's: its losses have columns of their own."
        for name in unknown
    ]
    return said + [
        f"{row['name']} is at step {row['steps']:,} of {row['planned_steps']:,}: its schedule has not ended."
        for row in reached
        if row["steps"] < (row["planned_steps"] or 0)
    ]


def score_charts(runs: Sequence[Run]) -> list[Chart]:
    """Chart accuracy against tokens, one chart for each task, protocol, shots and items."""
    charts: list[Chart] = []
    measured = [row for run in runs for row in run.metrics["eval"]]
    for group, called in _groups(measured).items():
        curves: list[Curve] = []
        normalised = any("acc_norm" in results(row) for row in measured if _group(row) == group)
        name = "acc_norm" if normalised else "acc"
        for number, run in enumerate(runs):
            rows = [row for row in run.metrics["eval"] if _group(row) == group]
            x, y, error = columns(rows, "tokens", name, ACCURACIES[name])
            if len(y):
                label = ", ".join(
                    filter(None, (f"{run.name}: {score(rows[-1], name)}", doubt(rows[-1], name)))
                )
                curves.append(Curve(number, x, 100 * y, "line and points", label, 100 * error))
        whole = group.n == hellaswag.VALIDATION_ITEMS and any(
            row.get("official") for row in measured if _group(row) == group
        )
        references, note = _references(group, whole)
        caption = f"{called}: {name} against training tokens, the band or bar is one standard error.{note}"
        title = f"{group.task} ({group.protocol}), {name} in %"
        charts.append(Chart(group.file_name, title, caption, curves, references))
    return charts


def _references(group: Group, whole: bool) -> tuple[list[tuple[str, float]], str]:
    """Return the lines that belong beside a group's scores, and what the caption says of published ones.

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


def rate_charts(runs: Sequence[Run]) -> list[Chart]:
    """Chart learning rate and throughput against tokens."""
    rates: list[Curve] = []
    speeds: list[Curve] = []
    for number, run in enumerate(runs):
        x, y = columns(run.metrics["step"], "tokens", "lr")
        if len(y):
            rates.append(Curve(number, x, y, label=f"{run.name}: peak {y.max():.2g}"))
        x, y = columns(run.metrics["step"], "tokens", "tokens_per_s")
        if len(y):
            _, mfu = columns(run.metrics["step"], "tokens", "mfu")
            share = f", {np.median(mfu):.0%} of peak" if len(mfu) else ""
            label = f"{run.name}: median {amount(float(np.median(y)))}{share}"
            speeds += [Curve(number, x, y, "faint"), Curve(number, x, smooth(y), label=label)]
    caption = (
        f"Throughput of training, averaged over {SMOOTH_FRACTION:.0%} of the steps, each step faint behind."
    )
    return [
        Chart("learning_rate", "learning rate", "Learning rate against training tokens.", rates, low=0),
        Chart("throughput", "tokens a second", caption, speeds, low=0),
    ]


def report(runs: Sequence[Path], out: Path) -> Row:
    """Write `index.html` and its pictures as PNG files about run folders, and return the same facts.

    Returns:
        `runs`, the facts of each; `notes`, what makes comparing them unfair; `files`, what was written.

    Raises:
        ConfigError: a folder is no run folder, `out` holds something else, or it cannot be written.
    """
    loaded = read_runs(runs)
    of = fingerprint(*sorted(map(identity, runs)))
    refuse(out, KIND, of)
    reached = [facts(run, loaded[0]) for run in loaded]
    unfair = notes(loaded, reached)
    drawn: dict[str, list[str]] = {}
    files: dict[str, bytes] = {}
    pictures = {
        "Loss": [loss_chart(loaded)],
        "Scores": score_charts(loaded),
        "Learning rate and throughput": rate_charts(loaded),
    }
    with Progress("drawing", total=sum(map(len, pictures.values())), unit=" pictures") as progress:
        for name, charts in pictures.items():
            for chart in charts:
                if any(len(curve.x) for curve in chart.curves):
                    picture = draw(chart)
                    files[f"{chart.name}.png"] = picture.light
                    drawn.setdefault(name, []).append(figure(picture))
                progress.advance()
    sections = {
        "Runs": _runs_table(reached, validated_texts(loaded))
        + "".join(paragraph(text, "note") for text in unfair)
    }
    sections["Runs"] += paragraph(FOOTNOTE, "faint")
    sections |= {name: "".join(figures) for name, figures in drawn.items()}
    if len(loaded) > 1:
        sections["What the recipes do not share"] = _differences_table(reached)
    sections["Run by run"] = "".join(_details(run) for run in loaded)
    title = reached[0]["name"] if len(loaded) == 1 else f"{len(loaded)} runs"
    lead = f"Written by gptlab {gptlab.__version__} from the files of the runs."
    record = Record(KIND, of, title, files.keys())
    files[INDEX] = page(title, lead, sections, record).encode(errors="replace")
    write(out, files)
    return {"runs": reached, "notes": unfair, "files": [str(out / name) for name in files]}


def _runs_table(reached: Sequence[Row], texts: Sequence[str | None]) -> str:
    scores = [{_group(row): row for row in run["scores"]} for run in reached]
    columns = [
        (group, called, name)
        for group, called in _groups(row for part in scores for row in part.values()).items()
        for name in dict.fromkeys(name for part in scores for name in results(part.get(group, {})))
    ]
    validated = dict.fromkeys(
        text for run, text in zip(reached, texts, strict=True) if run["best_loss"] is not None
    ) or {None: None}
    head = ["run", "parameters", "tokens"]
    for sha256 in validated:
        on = f"\non {sha256[:8] if sha256 else 'text not on record'}" if len(validated) > 1 else ""
        head += [f"best\nvalidation\nloss{on}", f"at step{on}", f"bits\nper byte{on}"]
    head += [
        called.replace(", ", "\n") + f"\n{name}" + (", %" if name in ACCURACIES else "")
        for _, called, name in columns
    ]
    rows = [
        [
            run["name"],
            _cell(run["parameters"], amount),
            _cell(run["tokens"], amount),
            *(cell for sha256 in validated for cell in _loss_cells(run, sha256 == text)),
            *(_cell(part.get(group), lambda row, name=name: _score(row, name)) for group, _, name in columns),
            _cell(run["hours"], "{:.2f}".format),
            _cell(run["machine"]),
            _cell(run["gptlab"]),
        ]
        for run, part, text in zip(reached, scores, texts, strict=True)
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


def _differences_table(reached: Sequence[Row]) -> str:
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
    return "absent" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)


def _details(run: Run) -> str:
    """Set what tells a run's story: where it came from, what happened to it, and what it wrote last."""
    told = {
        key: shlex.join(value) if isinstance(value, list) else value for key, value in run.environment.items()
    }
    origin = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in told.items() if value is not None)
    events = ", ".join(f"{row.get('event')} at step {row.get('step')}" for row in run.metrics["event"])
    written = run.metrics["sample"]
    last = [row for row in written if row["step"] == written[-1]["step"]][:SAMPLES]
    parts = [heading(run.name), paragraph(f"{run.folder}; {origin}", "faint")]
    parts += [paragraph(f"On the way: {events}.", "faint")] if events else []
    rate = run.highest_rate
    parts += (
        [paragraph(f"Highest learning rate of its steps: {rate:g}.", "faint")] if rate is not None else []
    )
    changed = "; ".join(f"{key} {run.setting(key)}" for key in run.changes)
    parts += [paragraph(f"Trained under settings that changed: {changed}.", "note")] if changed else []
    parts += [paragraph(f"What it writes at step {last[0]['step']:,}:"), samples(last)] if last else []
    return "".join(parts)
