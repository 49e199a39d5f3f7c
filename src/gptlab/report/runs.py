"""Reports: run folders to one page, the pictures next to it, and the same facts as a mapping.

A report knows files, not torch, so it is written wherever the folders are: `metrics.jsonl`, and where they
exist `config.toml` and `environment.json`. Numbers that cannot be compared are kept apart, and notes under the table
name what else makes a comparison unfair.
"""

from collections.abc import Sequence
from pathlib import Path

import gptlab
from gptlab.outputs import Record, fingerprint
from gptlab.progress import Progress
from gptlab.report.answer import answer, headline, repeat, tiles_of
from gptlab.report.chart import Chart
from gptlab.report.charts import front_chart, loss_chart, rate_charts
from gptlab.report.page import commands, figure, page, pair, paragraph, tiles
from gptlab.report.page_folder import INDEX, require_own_page, write
from gptlab.report.picture import draw
from gptlab.report.reference import read_references
from gptlab.report.run_tables import differences_table, runs_table, stories
from gptlab.report.score_charts import group_of, groups_of, score_charts
from gptlab.report.telling import telling
from gptlab.runs.folder import identity
from gptlab.runs.history import (
    TEXT_SETTINGS,
    Run,
    read_runs,
    training_hours,
    validated_texts,
    validations,
)
from gptlab.runs.metrics import Row

KIND = "report"

PARAMETERS_APART = 1.02
RELOAD_S = 5.0
"""How often the page of runs that still train loads itself anew."""
FOOTNOTE = (
    "Losses are nats per token; bits per byte are those of the same step. A score is that of the last step at which "
    "these items were asked, in training or later by gptlab eval, with one standard error, that of drawing the items: "
    "scores less than three of them apart show no difference. A larger gap is a difference of these checkpoints; it "
    "says nothing of recipes, as two seeds of one recipe differ as well. Above chance is what guessing reaches less "
    "than once in twenty times (exact binomial test). "
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
    scores = {group_of(row): row for row in run.metrics["eval"]}
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
        "scores": [scores[group] for group in groups_of(scores.values())],
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


def report(runs: Sequence[Path], out: Path, *, reference: Path | None = None, watched: bool = False) -> Row:
    """Write `index.html` and its pictures as PNG files about run folders, and return the same facts.

    Args:
        runs: the run folders.
        out: the folder of the page.
        reference: a file with the loss of another model; see `gptlab report`.
        watched: whether the page is written again soon: it then loads itself anew, and no PNGs are drawn.

    Returns:
        `runs`, the facts of each; `notes`, what makes comparing them unfair; `files`, what was written.

    Raises:
        ConfigError: a folder is no run folder, `out` holds something else, or it cannot be written; or
            `reference` holds no loss that compares.
    """
    loaded = read_runs(runs)
    references = read_references(reference, loaded) if reference is not None else []
    of = fingerprint(*sorted(map(identity, runs)))
    require_own_page(out, KIND, of)
    reached = [facts(run, loaded[0]) for run in loaded]
    unfair = notes(loaded, reached)
    texts = validated_texts(loaded)
    files, figures = _drawn(_charts(loaded, references), pictures=not watched)
    sections = {"Runs": runs_table(reached, texts) + "".join(paragraph(text, "note") for text in unfair)}
    sections["Runs"] += paragraph(FOOTNOTE, "faint")
    sections |= figures
    if "Scores" in sections:
        sections["Scores"] = telling(reached) + sections["Scores"]
    if len(loaded) > 1:
        sections["What the recipes do not share"] = differences_table(reached)
    sections["Run by run"] = stories(loaded, out)
    sections["Repeat it"] = commands(repeat(loaded, out, reference))
    title = reached[0]["name"] if len(loaded) == 1 else f"{len(loaded)} runs"
    lead = (
        f"Written by gptlab {gptlab.__version__} from the files of the runs"
        + ", which are watched." * watched
    )
    html = page(
        headline(reached),
        lead if watched else f"{lead}.",
        {"": tiles(tiles_of(reached, loaded))} | sections,
        Record(KIND, of, title, files.keys()),
        answer=answer(loaded, reached),
        reload_s=RELOAD_S if watched else None,
    )
    files[INDEX] = html.encode(errors="replace")
    write(out, files)
    return {"runs": reached, "notes": unfair, "files": [str(out / name) for name in files]}


def _charts(runs: Sequence[Run], references: Sequence[tuple[str, float]]) -> dict[str, list[Chart]]:
    """Return the charts of runs by section, those that have points."""
    front = front_chart(runs)
    charts = {
        "Loss": [loss_chart(runs, references), *([front] if front is not None else [])],
        "Scores": score_charts(runs),
        "Learning rate and throughput": rate_charts(runs),
    }
    filled = {
        name: [chart for chart in group if any(len(curve.x) for curve in chart.curves)]
        for name, group in charts.items()
    }
    return {name: group for name, group in filled.items() if group}


def _drawn(charts: dict[str, list[Chart]], *, pictures: bool) -> tuple[dict[str, bytes], dict[str, str]]:
    """Draw charts; return the PNG files, and the figures by section."""
    files: dict[str, bytes] = {}
    figures: dict[str, list[str]] = {name: [] for name in charts}
    with Progress("drawing", total=sum(map(len, charts.values())), unit=" pictures") as progress:
        for name, group in charts.items():
            for chart in group:
                picture = draw(chart, pictures=pictures)
                files |= {f"{chart.name}.png": picture.light} if pictures else {}
                figures[name].append(figure(picture))
                progress.advance()
    return files, {name: "".join(set_) if name == "Loss" else pair(*set_) for name, set_ in figures.items()}
