"""`gptlab data inspect`."""

from pathlib import Path
from typing import Any


def run(folder: Path, /, *, out: Path | None = None) -> dict[str, Any]:
    """Show what a prepared folder holds: counts, lengths, duplicates, some documents.

    Args:
        folder: the prepared folder.
        out: folder for the same as a page, `index.html` and its pictures; None writes none.
    """
    from gptlab.data.audit.inspect import inspect
    from gptlab.report.datasheet import require_own_datasheet, told, write_page

    if out is not None:
        require_own_datasheet(folder, out)
    facts = inspect(folder)
    print(told(facts))
    if out is not None:
        facts["files"] = write_page(facts, out)
        print(f"\n{out / 'index.html'}: written, and {len(facts['files']) - 1} picture(s)")
    return facts
