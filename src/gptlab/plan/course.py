"""A run compared with its recipe's time and with what a model of its size can be expected to reach."""

from pathlib import Path
from statistics import median
from typing import Any

from gptlab import recipe
from gptlab.amounts import duration, quantity
from gptlab.data.manifest import MANIFEST, Manifest
from gptlab.errors import ConfigError
from gptlab.model.size import measure
from gptlab.plan.options import PROTOCOL
from gptlab.plan.surface import BAND, LARGEST, MOST_FLOPS, SMALLEST, SURFACES, hellaswag
from gptlab.recipe import RunConfig
from gptlab.runs.folder import METRICS, RECIPE
from gptlab.runs.metrics import read_rows

RECENT = 50  # steps whose median says how fast a run is
GPT2_ENTRIES = (50257, 50304)  # the latter padded
UNDECAYED = 0.2
"""Nats that a loss may lie above the surface before the learning rate has come down; estimated."""


def course_of(run: Path) -> dict[str, Any]:
    """Print whether a run is on course, too slow, or above what can be expected, and what to do.

    Returns:
        `step steps tokens hours_left loss expected loss_band verdict`; what cannot be known is None.

    Raises:
        GptlabError: it is no run folder, or has no steps yet.
    """
    if not (run / RECIPE).is_file() or not (run / METRICS).is_file():
        raise ConfigError(f"{run}: is not a run folder; name one that `gptlab train` made")
    config, rows = recipe.load([run / RECIPE]), read_rows(run / METRICS)
    done = [row for row in rows if row["kind"] == "step"]
    if not done:
        raise ConfigError(f"{run}: has no steps yet; ask again once it trains")
    step, step_s = done[-1]["step"], median(row["step_s"] for row in done[-RECENT:])
    planned = [row["steps"] for row in rows if row.get("event") == "plan"]
    steps = planned[-1] if planned else config.train.steps
    verdict = "on course"
    print(f"{run}: step {step:,}{f' of {steps:,}' if steps else ''}, {quantity(done[-1]['tokens'])} tokens")
    left_s = None if steps is None else (steps - step) * step_s
    if left_s is not None and step < steps:
        print(f"  time: {duration(left_s)} left at {duration(step_s)} a step, evaluations left out")
        used_s = sum(row["step_s"] for row in done)
        if config.train.hours is not None and used_s + left_s > 3600 * config.train.hours:
            verdict = "too slow"
            fit = step + int((3600 * config.train.hours - used_s) / step_s)
            print(
                f"  too slow for train.hours = {config.train.hours:g}: about {max(step, fit):,} steps fit; the decay "
                "ends with them if the run is continued with --replan; or give more with --train.hours"
            )
    expected, band, loss = _expected(config, done[-1]["tokens"], rows)
    if loss is None:
        print("  loss: not validated yet")
    elif expected is None or band is None:
        print(f"  loss: {loss:.4f}; no published fit covers this size, tokenizer or budget")
    else:
        ended = steps is not None and step >= steps
        high = band[1] + (0.0 if ended else UNDECAYED)
        print(
            f"  loss: {loss:.4f}; {expected:.2f} expected of this size after as many tokens"
            + ("" if ended else f", up to {UNDECAYED:g} more until the learning rate is down")
        )
        if loss > high:
            verdict = "above the band"
            print(
                "  above what runs of this size reach: look at the learning rate (`gptlab tune`), at skipped steps and "
                "rollbacks (`gptlab report`), and at the data (`gptlab data inspect`); another text has another loss"
            )
    print(f"  {verdict}")
    return {
        "step": step,
        "steps": steps,
        "tokens": done[-1]["tokens"],
        "hours_left": None if left_s is None else left_s / 3600,
        "loss": loss,
        "expected": expected,
        "loss_band": band,
        "verdict": verdict,
    }


def _expected(
    config: RunConfig, tokens: int, rows: list[dict[str, Any]]
) -> tuple[float | None, tuple[float, float] | None, float | None]:
    """Return the expected loss at these tokens with its band, and the last one measured."""
    size = measure(config.model)
    losses = [row["loss"] for row in rows if row["kind"] == "val" and row["loss"] is not None]
    loss = losses[-1] if losses else None
    covered = SMALLEST <= size.parameters <= LARGEST and size.flops_per_token * tokens <= MOST_FLOPS
    if not covered or config.model.vocab_size not in GPT2_ENTRIES:
        return None, None, loss
    folder = Path(config.data.parts[0].path)
    source = Manifest.load(folder).source if (folder / MANIFEST).is_file() else str(folder)
    surface = SURFACES["fineweb-edu" if "edu" in source.lower() else "fineweb"]
    expected = surface.loss(size.parameters, tokens)
    print(f"  HellaSwag: {100 * hellaswag(surface, size.parameters, tokens):.1f} % expected ({PROTOCOL})")
    return expected, (expected - BAND, expected + BAND), loss
