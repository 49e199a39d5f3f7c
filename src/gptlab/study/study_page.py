"""The page of a study: the question, the answer in a sentence, the table, the pictures, every run."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import gptlab
from gptlab.amounts import amount, duration, quantity
from gptlab.errors import ConfigError
from gptlab.outputs import Record
from gptlab.report.page import DASH, commands, figure, link, page, paragraph, table
from gptlab.report.page_folder import INDEX, read_record, write
from gptlab.report.picture import draw
from gptlab.runs.history import Run, columns, read_runs, validations
from gptlab.study.design import Arm, marks
from gptlab.study.outcomes import Metric, Outcome, outcome
from gptlab.study.study_charts import charts, seconds_at
from gptlab.study.study_file import Study
from gptlab.study.study_plan import identity
from gptlab.study.trials import counted, run_of, search

KIND = "study"
TARGETS = {
    "seeds": "They hold for new seeds of the same recipes on the same items and the same held-out text.",
    "seeds and items": "They hold for new seeds of the same recipes; for scores, also for new items of the same kind.",
}
SECONDARY = (
    "The answer rests on the loss. The p-values of scores are corrected together (Holm), so that none looks like a "
    "finding by chance; if that takes a finding back, its own interval may still exclude zero."
)


def write_page(out: Path, study: Study, arms: Sequence[Arm], notes: Sequence[str]) -> dict[str, Any]:
    """Write DIR/index.html about the runs that have ended, and return the same facts.

    Args:
        out: the study's folder.
        study: the study.
        arms: its variants, the baseline first.
        notes: what has changed since it began.

    Returns:
        `variants`, a verdict on each by its loss; `metrics`, the same by every metric; `sentences`; `failed`.

    Raises:
        ConfigError: the folder holds another page.
    """
    of = identity(out)
    _refuse_other_page(out, of)
    found = outcome(out, study, arms)
    runs = _runs(out, study, arms, found)
    drawn = charts(arms, runs)
    pictures = {chart.name: draw(chart) for chart in drawn}
    loss = found.metrics[0]
    sections = {"What can be said": _verdicts(study, loss, _notes(study, arms, found, notes))}
    sections |= {metric.name: _verdicts(study, metric, []) for metric in found.metrics[1:]}
    sections |= {chart.title.partition(",")[0].capitalize(): figure(pictures[chart.name]) for chart in drawn}
    sections["Cost"] = _cost(study, arms, found, runs)
    if study.tune:
        sections["Search for the learning rate"] = _searched(study, arms, found)
    sections["Runs"] = _runs_table(study, arms, found)
    sections["How it was judged"] = "".join(map(paragraph, _method(study)))
    sections["Repeat it"] = commands(
        [
            f"gptlab study {study.name}.toml --out {shlex.quote(out.name)}",
            *(
                f"gptlab train recipes/{trial.name}.toml --out runs/{trial.name}"
                for trial in counted(study, arms)[:1]
            ),
        ]
    ) + paragraph("Each run's own recipe lies in recipes/ beside this page.", "faint")
    names = {f"{name}.png" for name in pictures}
    record = Record(KIND, of, study.name, names)
    title = f"{study.name}: " + " or ".join(arm.name for arm in arms)
    lead = f"Written by gptlab {gptlab.__version__} from the runs in this folder."
    text = page(title, lead, sections, record, answer=_answer(study, loss, found))
    write(out, {INDEX: text.encode(errors="replace"), **{f"{n}.png": p.light for n, p in pictures.items()}})
    return {
        "variants": [asdict(verdict) for verdict in loss.verdicts],
        "metrics": {
            metric.name: [asdict(verdict) for verdict in metric.verdicts] for metric in found.metrics
        },
        "sentences": [verdict.sentence(study.baseline.name, loss.unit) for verdict in loss.verdicts[1:]],
        "failed": found.failed,
        "missing": found.missing,
        "page": str(out / INDEX),
    }


def _refuse_other_page(out: Path, of: str) -> None:
    if not (out / INDEX).exists():
        return
    record = read_record(out)
    if record is None or (record.kind, record.of) != (KIND, of):
        raise ConfigError(f"{out / INDEX}: is not this study's page; move it away, or choose another --out")


def _runs(out: Path, study: Study, arms: Sequence[Arm], found: Outcome) -> dict[str, list[Run]]:
    """Read the finished runs of each variant, by seed."""
    done = {
        arm.name: [run_of(out, trial) for trial in counted(study, [arm]) if found.finished(trial.name)]
        for arm in arms
    }
    return {name: read_runs(folders) for name, folders in done.items() if folders}


def shared_seeds(study: Study, arms: Sequence[Arm], found: Outcome) -> list[int]:
    """Return the seeds that every variant has finished."""
    done = [{trial.seed for trial in counted(study, [arm]) if found.finished(trial.name)} for arm in arms]
    return sorted(set.intersection(*(seeds for seeds in done if seeds))) if any(done) else []


def _answer(study: Study, loss: Metric, found: Outcome) -> str:
    """Say what the loss shows, in one sentence."""
    baseline, others = study.baseline.name, loss.verdicts[1:]
    if found.missing:
        return (
            f"{len(found.missing)} of the runs are still to come; what follows covers those that have ended."
        )
    groups = {
        verdict: [each.name for each in others if each.verdict == verdict]
        for verdict in ("better", "worse", "not distinguishable")
    }
    said = {
        "better": "{} {} a lower loss than {}",
        "worse": "{} {} a higher loss than {}",
        "not distinguishable": "{} {} not distinguishable from {}",
    }
    parts = [
        said[verdict].format(_listed(names), _verb(verdict, len(names)), baseline)
        for verdict, names in groups.items()
        if names
    ]
    if not parts:
        return "Too few runs finished to claim a difference."
    text = "; ".join(parts)
    least = min(each.n for each in loss.verdicts)
    return f"{text[0].upper()}{text[1:]}, at {least} seeds{' or more' * (least < len(study.seeds))}."


def _verb(verdict: str, count: int) -> str:
    if verdict == "not distinguishable":
        return "is" if count == 1 else "are"
    return "has" if count == 1 else "have"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _number(value: float | None, digits: int, sign: str = "") -> str:
    return DASH if value is None else f"{value:{sign}.{digits}f}"


def _verdicts(study: Study, metric: Metric, notes: Sequence[str]) -> str:
    """Write the table of a metric, a sentence for each variant, and what makes the comparison less than fair."""
    scale, digits = (100, 2) if metric.unit == "points" else (1, 4)
    verdicts = [verdict.scaled(scale) for verdict in metric.verdicts]
    unit = "%" if metric.unit == "points" else metric.unit
    head = [
        "variant",
        "runs",
        f"mean\n{unit}",
        "SD",
        "difference",
        "95 % interval",
        "p",
        "verdict",
        "seeds\nneeded",
    ]
    rows = [
        [
            verdict.name,
            str(verdict.n),
            _number(verdict.mean, digits),
            _number(verdict.sd, digits),
            _number(verdict.difference, digits, "+"),
            DASH
            if verdict.interval is None
            else " to ".join(_number(edge, digits, "+") for edge in verdict.interval),
            DASH if verdict.p is None else "< 0.001" if verdict.p < 0.001 else f"{verdict.p:.3f}",
            verdict.verdict or ("baseline" if verdict.name == study.baseline.name else DASH),
            DASH if verdict.seeds_needed is None else f"{verdict.seeds_needed:,}",
        ]
        for verdict in verdicts
    ]
    said = "".join(
        paragraph(verdict.sentence(study.baseline.name, metric.unit, digits)) for verdict in verdicts[1:]
    )
    warned = [metric.warning] if metric.warning else []
    return table(head, rows) + said + "".join(paragraph(note, "note") for note in (*warned, *notes))


def _notes(study: Study, arms: Sequence[Arm], found: Outcome, notes: Sequence[str]) -> list[str]:
    said = [*notes, *(f"Not alike: {mark}." for mark in marks(list(arms)))]
    said += [f"{arm.name}: {arm.matched}." for arm in arms if arm.matched is not None]
    said += [f"{name} {reason}; it is in no mean." for name, reason in found.failed.items()]
    if study.paired and found.failed:
        seeds = ", ".join(map(str, shared_seeds(study, arms, found)))
        said.append(f"Pairs need every variant: differences are over seeds {seeds or 'none'}.")
    versions = sorted({one.gptlab for one in found.ended.values()})
    if len(versions) > 1:
        said.append(f"Runs were made by gptlab {' and '.join(versions)}.")
    if len(study.seeds) < 2:
        said.append("One seed does not show how much runs vary: no difference is claimed.")
    return said


def _cost(study: Study, arms: Sequence[Arm], found: Outcome, runs: dict[str, list[Run]]) -> str:
    """Tabulate what each variant costs, and how soon it reaches the baseline's final loss."""
    goal = next(
        (verdict.mean for verdict in found.metrics[0].verdicts if verdict.name == study.baseline.name), None
    )
    rows: list[list[str]] = []
    for arm in arms:
        ended = [found.ended[t.name] for t in counted(study, [arm]) if found.finished(t.name)]
        shape = arm.config.model
        cache = 2 * 2 * shape.n_layer * shape.kv_heads * shape.head_dim  # keys and values of two bytes
        reached = [_reached(run, goal) for run in runs.get(arm.name, ())] if goal is not None else []
        speeds = [one.tokens_per_s for one in ended if one.tokens_per_s is not None]
        memory = [one.peak_bytes for one in ended if one.peak_bytes is not None]
        rows.append(
            [
                arm.name,
                amount(arm.size.parameters),
                amount(arm.tokens),
                f"{arm.flops:.3g}",
                amount(float(np.median(speeds))) if speeds else DASH,
                quantity(max(memory), "B") if memory else DASH,
                quantity(cache, "B"),
                _mean_of([tokens for tokens, _ in filter(None, reached)], len(reached), amount),
                _mean_of([seconds for _, seconds in filter(None, reached)], len(reached), duration),
            ]
        )
    head = [
        "variant",
        "parameters",
        "tokens",
        "FLOPs",
        "tokens\na second",
        "peak\nmemory",
        "cache\na token",
        f"tokens to\n{study.baseline.name}'s loss",
        "training time\nto it",
    ]
    note = (
        "Speed, memory and time are this machine's. The cache holds keys and values in two-byte numbers. Tokens and "
        "time to the baseline's mean final loss are interpolated between validations, and averaged over the seeds that "
        "reached it."
    )
    return table(head, rows) + paragraph(note, "faint")


def _reached(run: Run, goal: float) -> tuple[float, float] | None:
    """Return the tokens and seconds at which a run's validation loss reached a goal; None if it did not."""
    tokens, loss = columns(validations(run), "tokens", "loss")
    below = np.flatnonzero(loss <= goal)
    if not len(below):
        return None
    at = int(below[0])
    if at == 0:
        return 0.0, 0.0
    part = (loss[at - 1] - goal) / (loss[at - 1] - loss[at])
    here = np.array([tokens[at - 1] + part * (tokens[at] - tokens[at - 1])])
    return float(here[0]), float(seconds_at(run, here)[0])


def _mean_of(values: Sequence[float], runs: int, form: Any) -> str:
    if not values:
        return DASH
    return form(sum(values) / len(values)) + (
        f" ({len(values)} of {runs} runs)" if len(values) < runs else ""
    )


def _searched(study: Study, arms: Sequence[Arm], found: Outcome) -> str:
    rows: list[list[str]] = []
    for arm in arms:
        losses: dict[float, str] = {}
        for trial in search(study, [arm]):
            one = found.ended.get(trial.name)
            if trial.rate is not None:
                losses[trial.rate] = (
                    DASH if one is None else f"{one.loss:.4f}" if one.loss is not None else one.status
                )
        known = {rate: float(text) for rate, text in losses.items() if text[:1].isdigit()}
        best = min(known, key=known.__getitem__, default=None)
        edge = best is not None and len(losses) > 1 and best in (min(losses), max(losses))
        rows.append(
            [
                arm.name,
                "\n".join(f"{rate:g}: {text}" for rate, text in losses.items()),
                DASH if best is None else f"{best:g}" + (", at the edge of the search" if edge else ""),
            ]
        )
    note = "A rate at the edge of the search may not be the best: a wider one could favour that variant more."
    return table(["variant", "learning rate: loss", "taken"], rows) + paragraph(note, "faint")


def _runs_table(study: Study, arms: Sequence[Arm], found: Outcome) -> str:
    rows: list[list[Any]] = []
    for trial in (*search(study, arms), *counted(study, arms)):
        one = found.ended.get(trial.name)
        rows.append(
            [
                link(trial.name, f"runs/{trial.name}"),
                trial.arm.name,
                str(trial.seed) if trial.rate is None else f"search, {trial.rate:g}",
                "to come" if one is None else one.status,
                DASH if one is None or one.loss is None else f"{one.loss:.4f}",
                DASH if one is None or one.bits_per_byte is None else f"{one.bits_per_byte:.4f}",
                DASH if one is None or one.hours is None else duration(3600 * one.hours),
            ]
        )
    head = ["run", "variant", "seed", "status", "validation\nloss", "bits\na byte", "training\ntime"]
    return table(head, rows)


def _method(study: Study) -> list[str]:
    """Say how the numbers were made, so that a reader can check them."""
    shared = "one seed gives all variants the same order of the data" + (
        ", and runs are compared seed by seed" if study.paired else "; runs are compared as if it did not"
    )
    spread = (
        "The spread over seeds is pooled over all variants. The intervals of all comparisons with the baseline hold "
        "together at 95 % (Dunnett; if the spread of items counts too, Sidak)."
        if study.variance == "pooled"
        else "Comparisons of the loss have spreads of their own (Welch, or paired t), at Sidak's level together."
    )
    return [
        f"{len(study.seeds)} seeds; each decides the first weights and the order of the data: {shared}.",
        spread,
        TARGETS[study.target],
        SECONDARY,
        "A run that failed or diverged is listed, and is in no mean.",
    ]
