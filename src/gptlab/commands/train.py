"""`gptlab train`."""

from pathlib import Path
from typing import Any

from gptlab.commands import Flags
from gptlab.errors import ConfigError


def run(
    recipes: tuple[Path, ...] = (),
    /,
    *,
    out: Path,
    max_hours: float | None = None,
    replan: bool = False,
    from_: Path | None = None,
    anneal_hours: float | None = None,
    anneal_steps: int | None = None,
    flags: Flags,
) -> dict[str, Any]:
    """Train a model, or continue an unfinished run in OUT.

    Args:
        recipes: TOML files, merged left to right; none means OUT's own.
        out: the run folder.
        max_hours: save and stop after this time, with exit code 75.
        replan: measure again how many steps fit into train.hours.
        from_: a checkpoint or a run (its newest one) to anneal: its rate decays from where it stands; OUT is a new run.
        anneal_hours: how long the decay takes.
        anneal_steps: or how many steps it takes.
        flags: keys of the recipe.
    """
    from gptlab.actions.train import train

    if from_ is not None:
        from gptlab.actions.anneal import annealed

        recipes, flags = annealed(from_, recipes, flags, hours=anneal_hours, steps=anneal_steps)
    elif anneal_hours is not None or anneal_steps is not None:
        raise ConfigError("--anneal-hours and --anneal-steps: name the checkpoint to anneal with --from")
    return train(recipes, out, flags, max_hours=max_hours, replan=replan)
