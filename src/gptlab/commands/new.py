"""`gptlab new`."""

from pathlib import Path
from typing import Any


def run(name: Path, /, *, recipe: str = "tiny_cpu") -> dict[str, Any]:
    """Write a folder to start a project from: a recipe, a study and a README.

    Args:
        name: the folder.
        recipe: the name of the recipe that the project's own is laid over.
    """
    from gptlab.actions.new import new

    return new(name, recipe)
