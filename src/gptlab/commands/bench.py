"""`gptlab bench`."""

from pathlib import Path
from typing import Any

from gptlab.commands import Flags
from gptlab.errors import ConfigError


def run(
    recipes: tuple[Path, ...],
    /,
    *,
    steps: int | None = None,
    ladder: bool = False,
    trace: Path | None = None,
    picture: Path | None = None,
    flags: Flags,
) -> dict[str, Any]:
    """Measure a recipe's training step: speed, share of the machine's, memory, and where the time goes.

    Args:
        recipes: TOML files, merged left to right.
        steps: steps to measure; None means as many as fit a minute.
        ladder: also measure the recipe as it is made faster, one change at a time.
        trace: file for a profiler's trace of a step, which Perfetto opens.
        picture: PNG of where the time goes.
        flags: keys of the recipe.
    """
    from dataclasses import asdict

    from gptlab import recipe
    from gptlab.bench.bench import RungTime, bench
    from gptlab.bench.bench import ladder as climb
    from gptlab.bench.printed import draw, lines, row_line
    from gptlab.outputs import require_writable_file

    if steps is not None and steps < 1:
        raise ConfigError(f"--steps {steps}: must be at least 1; leave it out for a minute's worth")
    for flag, file in (("--trace", trace), ("--picture", picture)):
        if file is not None:
            require_writable_file(file, flag)
    config = recipe.load(recipes, flags)
    facts = bench(config, steps=steps, trace=trace)
    print("\n".join(lines(facts)), flush=True)
    rows: list[RungTime] = []
    for row in climb(config, steps) if ladder else ():
        print(("" if rows else "\n") + row_line(row), flush=True)
        rows.append(row)
    if picture is not None:
        draw(facts, rows, picture)
    return {**facts, "rows": [asdict(row) for row in rows]} if ladder else facts
