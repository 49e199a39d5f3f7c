"""`gptlab config`."""

from pathlib import Path
from typing import Any

from gptlab.commands import Flags


def run(recipes: tuple[Path, ...], /, *, flags: Flags) -> dict[str, Any]:
    """Print the resolved recipe with every key, itself a recipe.

    Args:
        recipes: TOML files, merged left to right.
        flags: keys of the recipe.
    """
    from dataclasses import asdict

    from gptlab import recipe

    resolved = recipe.load(recipes, flags)
    print(recipe.to_toml(resolved), end="")
    return asdict(resolved)
