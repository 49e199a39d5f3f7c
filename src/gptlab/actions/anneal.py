"""Annealing: rescues a run that ended before its learning rate came down.

Source: Haegele et al. (2024), https://arxiv.org/abs/2405.18392: a decay from any checkpoint of a run whose rate is
still high ends where a schedule of that length would have ended.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptlab import recipe
from gptlab.errors import ConfigError
from gptlab.runs import checkpoint
from gptlab.runs.folder import RECIPE, run_of
from gptlab.train.budget import Budget
from gptlab.train.optim import peaks
from gptlab.train.schedule import rate


def annealed(
    start: Path,
    recipes: Sequence[Path],
    flags: Mapping[str, Any],
    *,
    hours: float | None = None,
    steps: int | None = None,
) -> tuple[tuple[Path, ...], recipe.Raw]:
    """Return the recipes and flags of a run that brings down the learning rate of another.

    The rate falls linearly, from the checkpoint's to the final fraction of the other run's recipe.

    Args:
        start: a checkpoint, or a run, for its newest one.
        recipes: merged over the other run's own.
        flags: merged over all recipes.
        hours: duration of the decay.
        steps: or its number of steps.

    Raises:
        ConfigError: not exactly one of `hours` and `steps` is given, or the rate is already zero.
        CheckpointError: there is no such checkpoint.
    """
    if (hours is None) == (steps is None):
        raise ConfigError(
            f"--from {start}: set the length of the decay with either --anneal-hours or --anneal-steps"
        )
    found = checkpoint.newest_or_at(start, print)
    own = (run_of(found.folder) or found.folder) / RECIPE
    if not own.is_file():
        raise ConfigError(
            f"--from {start}: its run has no config.toml, which holds its learning rate; choose another run"
        )
    config, step = recipe.load([own]), found.state["step"]
    budget = Budget(
        config.train, warmup_steps=config.schedule.warmup_steps, evaluate_every=config.eval.every_steps
    )
    if "budget" in found.state:
        budget.restore(found.state["budget"])
    fraction = rate(config.schedule, step, budget.progress(step))
    if fraction == 0:
        raise ConfigError(
            f"--from {start}: its learning rate is zero at step {step}; choose an earlier checkpoint"
        )
    overlay: recipe.Raw = {
        "train": {
            "anneal_from": str(found.folder),
            "init_from": None,
            "hours": hours,
            "steps": None if steps is None else step + steps,
        },
        "optim": {key: peak * fraction for key, peak in peaks(config.optim).items()},
        "schedule": {
            "name": "wsd",
            "warmup_steps": 0,
            "decay_fraction": 1.0,
            "final_fraction": config.schedule.final_fraction,
        },
    }
    return (own, *recipes), recipe.merge(overlay, dict(flags))
