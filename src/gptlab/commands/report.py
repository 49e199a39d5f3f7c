"""`gptlab report`."""

from pathlib import Path
from typing import Any


def run(runs: tuple[Path, ...], /, *, out: Path) -> dict[str, Any]:
    """Draw runs: curves, a table of results, and a page that holds them.

    Args:
        runs: run folders.
        out: folder for index.html and the pictures.
    """
    from gptlab.report.runs import report

    facts = report(runs, out)
    print(f"{out / 'index.html'}: {len(runs)} run(s)")
    return facts
