"""Room on the disk."""

import shutil
from pathlib import Path

from gptlab.errors import DataError
from gptlab.progress import quantity


def check_room(folder: Path, needed: float) -> None:
    """Refuse to begin what the disk of `folder` has no room for.

    Args:
        folder: where the files are to lie.
        needed: how many bytes, about.

    Raises:
        DataError: fewer are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: about {quantity(needed, 'B')} are needed, {quantity(free, 'B')} are free; make room, or "
            "ask for less with --max-tokens"
        )
