"""`gptlab report`."""

from pathlib import Path
from typing import Any


def run(runs: tuple[Path, ...], /, *, out: Path, watch: bool = False) -> dict[str, Any]:
    """Write a page about runs, with curves and a table of results.

    Args:
        runs: run folders.
        out: folder for index.html and the pictures.
        watch: update the page while the runs train, until all are finished or Ctrl-C.
    """
    from gptlab.report.runs import report
    from gptlab.report.watch import watch as watched

    facts = watched(runs, out) if watch else report(runs, out)
    print(f"{out / 'index.html'}: {len(runs)} run(s)")
    return facts
