"""Whether the disk has room for the data that is asked for."""

from pathlib import Path

from gptlab.amounts import quantity
from gptlab.errors import DataError
from gptlab.storage import free_bytes


def check_room(folder: Path, needed: float) -> None:
    """Check that the disk of `folder` has room for about `needed` bytes.

    Raises:
        DataError: it has not.
    """
    free = free_bytes(folder)
    if needed > free:
        raise DataError(
            f"{folder}: needs about {quantity(needed, 'B')}, but only {quantity(free, 'B')} are free; make room, or "
            "ask for less with --max-tokens"
        )
