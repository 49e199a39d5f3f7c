"""A sort of folder and its reader, which mutants are given to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kind:
    """A sort of folder, one file of which is broken at a time."""

    make: Callable[[Path], None]
    """Writes a whole one."""
    files: Mapping[str, str]
    """Which files are broken, and what form they are of."""
    read: Callable[[Path], object]
    """Reads one, and asserts what holds of every result."""
    command: tuple[str, ...] = ()
    """What a user would type."""
    writes: bool = False
    """Whether the reader may change the folder."""
    mend: Callable[[Path], None] | None = None
    """Corrects the hashes, as ill will would, so that what lies behind them is tried as well."""
