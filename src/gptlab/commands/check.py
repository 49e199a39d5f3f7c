"""`gptlab check`."""

from pathlib import Path
from typing import Any

from gptlab.commands import Flags
from gptlab.errors import ConfigError


def run(recipes: tuple[Path, ...], /, *, overfit: bool = False, flags: Flags) -> dict[str, Any]:
    """Test an architecture: causality, order, relative shift, cache, gradients.

    Args:
        recipes: TOML files, merged left to right.
        overfit: also learn one batch to near-zero loss.
        flags: keys of the recipe.
    """
    from gptlab import recipe
    from gptlab.model.check import run_checks

    results = run_checks(recipe.load(recipes, flags).model, overfit=overfit)
    for result in results:
        print(f"{result.status:<7} {result.name:<14} {result.detail}")
    failed = [result.name for result in results if result.status == "failed"]
    if failed:
        raise ConfigError(f"the architecture fails {', '.join(failed)}; see above for what was measured")
    return {result.name: {"status": result.status, "detail": result.detail} for result in results}
