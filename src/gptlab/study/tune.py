"""The best peak learning rate of a recipe, from runs that each end their own decay, and how it carries over.

Source: a rate is judged by whole, annealed runs, as a learning-rate range test does not find it for transformers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlab import recipe, storage
from gptlab.amounts import amount, duration
from gptlab.errors import TrainError
from gptlab.outputs import require_writable
from gptlab.recipe import RunConfig
from gptlab.report.theme import LIGHT
from gptlab.study import runner
from gptlab.study.conduct import check_inputs
from gptlab.study.design import design
from gptlab.study.study_file import parse_study
from gptlab.study.study_plan import begin, step_seconds
from gptlab.study.trials import read_ended, search

STUDY, PICTURE = "study.toml", "rates.png"
NEAR = 2.1  # times the best rate, and as far below: farther off the loss is no parabola
LENGTH_POWER = -0.32
"""Of the best rate over the training tokens: Bjorck et al. (2025), https://arxiv.org/abs/2409.19913, eq. 3."""
MOST_TIMES = 30  # as long: about how far apart the lengths are that it was measured between


@dataclass(frozen=True)
class Minimum:
    """The bottom of a parabola of the loss over the logarithm of the rate."""

    rate: float
    low: float
    high: float
    """One standard error below and above; the measured neighbours where too few points tell an error."""


def tune(
    recipes: Sequence[Path],
    flags: Mapping[str, Any],
    out: Path,
    *,
    tokens: int,
    rates: Sequence[str],
    jobs: int | None = None,
    carry_to: Path | None = None,
) -> dict[str, Any]:
    """Train with several peak rates, on the same samples in the same order, and find the best one.

    Arguments as in `gptlab tune`; `flags` are merged over the recipes.

    Raises:
        GptlabError: the recipe cannot be trained, or the folder holds something else.
    """
    at_once = runner.checked_jobs(jobs)
    require_writable(out, "--out")
    config = recipe.load(recipes, flags)
    larger = recipe.load([carry_to]) if carry_to is not None else None
    text = _study(config, tokens, rates)
    study = parse_study(out / STUDY, text.encode())
    (arm,) = arms = design(study, lambda name, of: 0.0)
    check_inputs(arms, out)
    with runner.alone(out) as interrupt:
        begin(out, study, arms)
        storage.replace_text(out / STUDY, text)  # which the runs read
        trials = search(study, arms)
        if left := [trial for trial in trials if read_ended(out, trial) is None]:
            seconds = step_seconds(arm.run_config(study.seeds[0])) * arm.steps * len(left) / at_once
            print(
                f"{len(left)} runs of {arm.steps:,} steps, {amount(arm.tokens)} tokens each: "
                f"about {duration(seconds)} of training"
            )
        if not runner.do_all(out / STUDY, out, trials, at_once, interrupt, lambda trial: None):
            print(f"{out}: interrupted ({interrupt.reason}). Run the same command again to continue.")
            return {"status": "interrupted"}
    rows = [_row(out, trial) for trial in trials]
    facts: dict[str, Any] = {"status": "finished", "tokens": arm.tokens, **optimum(rows), "rows": rows}
    if facts["rate"] is None:
        raise TrainError(f"{out}: no run finished: {rows[0]['why']}; lower --rates")
    lines = _lines(facts)
    if larger is not None:
        facts["carried"], said = carried(facts["rate"], config, arm.tokens, larger)
        lines.append(said)
    _draw(facts, out / PICTURE)
    print("\n".join([*lines, f"{out / PICTURE}: the curve"]))
    return facts


def _study(config: RunConfig, tokens: int, rates: Sequence[str]) -> str:
    """Return a study of one variant, of which only the search for its rate is done."""
    tried = ", ".join(rate if _is_number(rate) else f'"{rate}"' for rate in rates)
    head = f"base = []\nseeds = [{config.train.seed}]\ntune = [{tried}]\n"
    return f'{head}\n[budget]\ntokens = {tokens}\n\n[[variant]]\nname = "rates"\n\n{recipe.to_toml(config)}'


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _row(out: Path, trial: Any) -> dict[str, Any]:
    ended = read_ended(out, trial)
    assert ended is not None
    return {
        "rate": trial.rate,
        "loss": ended.loss if ended.finished else None,
        "why": None if ended.finished else ended.why,
    }


def optimum(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the best of the tried rates, whether it is at the edge, and the bottom of a parabola around it."""
    points = sorted((row["rate"], row["loss"]) for row in rows if row["loss"] is not None)
    if not points:
        return {"rate": None, "edge": None, "minimum": None}
    best = min(range(len(points)), key=lambda number: points[number][1])
    tried = sorted(row["rate"] for row in rows)
    rate = points[best][0]
    edge = "lowest" if rate == tried[0] else "highest" if rate == tried[-1] else None
    found = minimum(points, best)
    return {"rate": rate, "edge": edge, "minimum": None if found is None else vars(found)}


def minimum(points: Sequence[tuple[float, float]], best: int) -> Minimum | None:
    """Fit a parabola to the points around the best one; None if it has no neighbour on both sides.

    The error comes from what the parabola leaves unexplained, by the delta method; three points leave nothing.
    """
    if not 0 < best < len(points) - 1:
        return None
    rate = points[best][0]
    near = [(other, loss) for other, loss in points if rate / NEAR <= other <= rate * NEAR]
    near = near if len(near) > 2 else list(points[best - 1 : best + 2])
    x, y = np.log([rate for rate, _ in near]), np.array([loss for _, loss in near])
    centre = x.mean()
    design_matrix = np.stack([(x - centre) ** 2, x - centre, np.ones_like(x)], 1)
    solution, *_ = np.linalg.lstsq(design_matrix, y, rcond=None)
    a, b, _ = solution
    low, high = points[best - 1][0], points[best + 1][0]
    bottom = centre - b / (2 * a) if a > 0 else math.log(rate)
    if not a > 0 or not math.log(low) <= bottom <= math.log(high):
        return Minimum(rate, low, high)
    spare = len(near) - 3
    if not spare:
        return Minimum(math.exp(bottom), low, high)
    residual = y - design_matrix @ solution
    covariance = np.linalg.inv(design_matrix.T @ design_matrix) * (residual @ residual) / spare
    slope = np.array([b / (2 * a * a), -1 / (2 * a), 0.0])
    error = math.sqrt(slope @ covariance @ slope)
    return Minimum(math.exp(bottom), math.exp(bottom - error), math.exp(bottom + error))


def carried(rate: float, config: RunConfig, tokens: int, larger: RunConfig) -> tuple[float | None, str]:
    """Estimate the best rate of a wider or longer run of the same optimizer and batch.

    Over the width, Muon's rate stays as it is (train/muon.py), and AdamW's falls with its inverse: Yang et al. (2022),
    https://arxiv.org/abs/2203.03466, table 8, for the matrices. Over the tokens both follow LENGTH_POWER, which was
    measured for AdamW.

    Returns:
        The rate, or none where these rules do not reach; and a sentence about it.
    """
    ours, theirs = config.train.batch_tokens, larger.train.batch_tokens
    if larger.optim.name != config.optim.name:
        why = f"its optimizer is {larger.optim.name}, not {config.optim.name}"
    elif theirs != ours:
        why = f"its batches have {theirs:,} tokens, not {ours:,}"
    elif larger.train.steps is None:
        why = "its length is in hours"
    elif (times := larger.train.steps * theirs / tokens) > MOST_TIMES:
        why = f"it is {times:,.0f} times as long as these runs, and the rule was measured up to about {MOST_TIMES}"
    else:
        width = config.model.n_embd / larger.model.n_embd if config.optim.name == "adamw" else 1.0
        found = rate * width * times**LENGTH_POWER
        what = f"{larger.model.n_embd} channels and {larger.train.steps:,} steps of {theirs:,} tokens"
        return found, f"carried to {what}: about {found:.2g} (estimated)"
    return None, f"not carried to that recipe: {why}"


def _lines(facts: Mapping[str, Any]) -> list[str]:
    lines = [f"  optim.lr {row['rate']:<9g} {row['why'] or _loss(row)}" for row in facts["rows"]]
    lines.append(f"best: optim.lr = {facts['rate']:g}")
    if facts["edge"] is not None:
        lines.append(
            f"  it is the {facts['edge']} rate that was tried: try others with --rates before you trust it"
        )
    if (found := facts["minimum"]) is not None:
        lines.append(f"a parabola's minimum: {found['rate']:.3g} ({found['low']:.3g} to {found['high']:.3g})")
    return lines


def _loss(row: Mapping[str, Any]) -> str:
    return f"validation loss {row['loss']:.4f}"


def _draw(facts: Mapping[str, Any], file: Path) -> None:
    from matplotlib.figure import Figure

    points = [(row["rate"], row["loss"]) for row in facts["rows"] if row["loss"] is not None]
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), "o-", color=LIGHT.curves[0])
    if (found := facts["minimum"]) is not None:
        axes.axvspan(found["low"], found["high"], color=LIGHT.curves[1], alpha=0.15, lw=0)
        axes.axvline(found["rate"], color=LIGHT.curves[1], label="minimum of a parabola, and its range")
        axes.legend(frameon=False)
    axes.set_xscale("log")
    axes.set_xticks([rate for rate, _ in points], [f"{rate:.3g}" for rate, _ in points])
    axes.minorticks_off()
    axes.set_xlabel("peak learning rate")
    axes.set_ylabel("validation loss, nats per token")
    axes.set_title(f"{amount(facts['tokens'])} tokens a run", loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
