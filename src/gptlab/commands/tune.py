"""`gptlab tune`."""

from pathlib import Path
from typing import Any

from gptlab.commands import Flags


def run(
    recipes: tuple[Path, ...],
    /,
    *,
    tokens: int,
    out: Path,
    rates: tuple[str, ...] = ("0.25x", "0.5x", "1x", "2x", "4x"),
    jobs: int | None = None,
    carry_to: Path | None = None,
    flags: Flags,
) -> dict[str, Any]:
    """Find a recipe's best learning rate by short whole runs; run again to continue.

    Args:
        recipes: TOML files, merged left to right.
        tokens: training tokens of each run, at whose end its rate has come down.
        out: folder for the runs and the picture of their losses.
        rates: peak rates of the matrices, or multiples of the recipe's; other groups keep their ratio to them.
        jobs: runs at once; None means one per GPU, or one without any.
        carry_to: estimate the best rate for this wider or longer recipe too.
        flags: keys of the recipe.
    """
    from gptlab.study.tune import tune

    return tune(recipes, flags, out, tokens=tokens, rates=rates, jobs=jobs, carry_to=carry_to)
