"""A piece of a source: documents that any process can read on its own, as often as it likes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

EXPANSION = {".gz": 3.0, ".zst": 3.0, ".parquet": 1.7}
"""Bytes of text per byte of file, roughly: of DCLM's and C4's shards, of FineWeb's and OpenWebText's."""


@dataclass(frozen=True)
class Piece:
    """A part of a source that can be read on its own. Its repr names its content: the keys of jobs depend on it."""

    path: str = field(repr=False)
    """The file that holds it, wherever that file is now."""
    stamp: str
    """Identifies the file and its state when it was cut: another stamp, another piece."""
    bytes: int
    """About how many bytes of text it holds."""

    def documents(self) -> Iterator[str]:
        """Read its documents in order, skipping empty ones.

        Raises:
            DataError: something in it is not a document; names the file and the place.
        """
        raise NotImplementedError

    def place(self, number: int) -> str:
        """Say where in its file a document is, by its number among those that `documents` yields, from 1."""
        return f"file {self.path}, document {number:,}"


def text_bytes(name: str, size: int) -> int:
    """Estimate how many bytes of text a file of this name and size holds."""
    return int(size * EXPANSION.get(PurePosixPath(name).suffix.lower(), 1))
