"""The commands about runs and recipes."""

from pathlib import Path
from typing import Any

from gptlab.cli.flags import Flags
from gptlab.errors import ConfigError


def demo(*, out: Path = Path("demo")) -> dict[str, Any]:
    """Run the whole pipeline on text that comes with Python, in minutes on a CPU.

    Args:
        out: folder for the page, the data, the runs and the exports.
    """
    from gptlab.demo import demo

    return demo(out)


def train(
    recipes: tuple[Path, ...] = (), /, *, out: Path, max_hours: float | None = None, flags: Flags
) -> dict[str, Any]:
    """Train a model; with a run in OUT that is not finished, continue it.

    Args:
        recipes: TOML files, merged left to right; none is OUT's own.
        out: the run folder.
        max_hours: save and stop after that time, with exit code 75.
        flags: keys of the recipe.
    """
    from gptlab.run import train

    return train(recipes, out, flags, max_hours)


def report(runs: tuple[Path, ...], /, *, out: Path) -> dict[str, Any]:
    """Draw runs: curves, a table of results, and a page that holds them.

    Args:
        runs: run folders.
        out: folder for index.html and the pictures.
    """
    from gptlab.report import report

    facts = report(runs, out)
    print(f"{out / 'index.html'}: {len(runs)} run(s)")
    return facts


def check(recipes: tuple[Path, ...], /, *, overfit: bool = False, flags: Flags) -> dict[str, Any]:
    """Test an architecture: causality, order, relative shift, cache, gradients.

    Args:
        recipes: TOML files, merged left to right.
        overfit: also learn one batch to near zero loss.
        flags: keys of the recipe.
    """
    from gptlab import recipe
    from gptlab.check import run_checks

    results = run_checks(recipe.load(recipes, flags).model, overfit=overfit)
    for result in results:
        print(f"{result.status:<7} {result.name:<14} {result.detail}")
    failed = [result.name for result in results if result.status == "failed"]
    if failed:
        raise ConfigError(f"the architecture fails {', '.join(failed)}; see above for what was measured")
    return {result.name: {"status": result.status, "detail": result.detail} for result in results}


def config(recipes: tuple[Path, ...], /, *, flags: Flags) -> dict[str, Any]:
    """Print a recipe as resolved: every key, itself a recipe.

    Args:
        recipes: TOML files, merged left to right.
        flags: keys of the recipe.
    """
    from dataclasses import asdict

    from gptlab import recipe

    resolved = recipe.load(recipes, flags)
    print(recipe.to_toml(resolved), end="")
    return asdict(resolved)
