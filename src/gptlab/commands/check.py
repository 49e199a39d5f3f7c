"""`gptlab check`."""

from pathlib import Path
from typing import Any

from gptlab.commands import Flags
from gptlab.errors import ConfigError, ExportError


def run(recipes: tuple[Path, ...], /, *, overfit: bool = False, flags: Flags) -> dict[str, Any]:
    """Test an architecture: causality, order, relative shift, cache, gradients.

    Args:
        recipes: TOML files, merged left to right.
        overfit: also learn the first few sequences of the recipe's own data to nearly zero loss, with its whole model,
            optimizer, number format and device, at its peak rate; this takes minutes for 124M parameters on a CPU.
        flags: keys of the recipe.
    """
    from gptlab import recipe
    from gptlab.actions import overfit as one_batch
    from gptlab.formats.huggingface.classes import format_of
    from gptlab.model.check import CheckResult, run_checks

    config = recipe.load(recipes, flags)
    # Before anything is tested, so that unusable data are refused at once.
    batch = one_batch.first_batch(config) if overfit else None
    results = run_checks(config.model)
    try:
        format_of(config.model)
    except ExportError as error:
        results.append(CheckResult("export", "exempt", str(error)))

    def show(result: CheckResult) -> None:
        print(f"{result.status:<7} {result.name:<14} {result.detail}", flush=True)

    for result in results:
        show(result)
    if batch is not None:
        results.append(one_batch.overfit(config, batch))
        show(results[-1])
    failed = [result.name for result in results if result.status == "failed"]
    if failed:
        raise ConfigError(f"the recipe fails {', '.join(failed)}; see above for what was measured")
    return {result.name: {"status": result.status, "detail": result.detail} for result in results}
