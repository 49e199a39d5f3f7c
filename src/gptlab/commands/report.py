"""`gptlab report`."""

from pathlib import Path
from typing import Any


def run(
    runs: tuple[Path, ...], /, *, out: Path, reference: Path | None = None, watch: bool = False
) -> dict[str, Any]:
    """Write a page about runs, with curves and a table of results.

    Args:
        runs: run folders.
        out: folder for index.html and the pictures.
        reference: file of gptlab eval MODEL --task loss --json FILE: a line across the loss, for a model measured on
            the same held-out tokens.
        watch: update the page while the runs train, until all are finished or Ctrl-C.
    """
    from gptlab.report.runs import report
    from gptlab.report.watch import watch as watched

    facts = (watched if watch else report)(runs, out, reference=reference)
    print(f"{out / 'index.html'}: {len(runs)} run(s)")
    return facts
