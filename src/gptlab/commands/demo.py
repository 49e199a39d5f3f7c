"""`gptlab demo`."""

from pathlib import Path
from typing import Any


def run(*, out: Path = Path("demo")) -> dict[str, Any]:
    """Run the whole pipeline on text that comes with Python, in minutes on a CPU.

    Args:
        out: folder for the page, the data, the runs and the exports.
    """
    from gptlab.actions.demo import demo

    return demo(out)
