"""Which runs share a colour: seeds of one recipe."""

from collections.abc import Hashable, Sequence
from itertools import count

from gptlab.report.theme import LIGHT
from gptlab.runs.history import Run

COLOURS = len(LIGHT.curves)
SEEDS = ("train.seed", "data.seed")


def numbers(runs: Sequence[Run]) -> list[int]:
    """Return the number of each run's curves; those of one recipe's seeds differ by multiples of `COLOURS`."""
    recipes: dict[Hashable, int] = {}
    free = [count(colour, COLOURS) for colour in range(COLOURS)]
    return [next(free[recipes.setdefault(_recipe(run), len(recipes)) % COLOURS]) for run in runs]


def _recipe(run: Run) -> Hashable:
    """Identify a run's recipe but for its seeds; a run without one has its own."""
    settings = [(key, run.setting(key)) for key in sorted(run.config) if key not in SEEDS]
    return str(settings) if settings else run.folder
