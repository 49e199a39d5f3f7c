"""A source and its files, each of which is on this machine or is fetched when its turn comes."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptlab.data.background import Ahead
from gptlab.data.sources.piece import Piece
from gptlab.progress import Progress


@dataclass(frozen=True)
class File:
    """A file of a source; files that are on this machine count as one."""

    key: str
    """Names its content, wherever it is."""
    bytes: int
    """About how many bytes of text it holds."""

    @property
    def download(self) -> int:
        """How many bytes to fetch for it."""
        return 0

    def fetched(self, folder: Path) -> int:
        """Return how many of these bytes `open` has put into `folder` so far."""
        return 0

    def open(self, folder: Path) -> Sequence[Piece]:
        """Fetch it into `folder` if it is not on this machine, and cut it into pieces.

        Raises:
            DataError: it cannot be fetched, or is not what it should be.
        """
        raise NotImplementedError

    def close(self, folder: Path) -> None:
        """Delete what `open` put into `folder`, if anything."""


@dataclass(frozen=True)
class Local(File):
    """All files of a source on this machine: one File, so that small ones share a job."""

    pieces: tuple[Piece, ...]
    """What they were cut into."""

    @staticmethod
    def of(pieces: Sequence[Piece]) -> "Local":
        """Make one of all pieces."""
        key = hashlib.sha256(repr(pieces).encode()).hexdigest()
        return Local(key, sum(piece.bytes for piece in pieces), tuple(pieces))

    def open(self, folder: Path) -> Sequence[Piece]:
        return self.pieces


@dataclass(frozen=True)
class Source:
    """A source that was found."""

    name: str
    """The name the user gave."""
    revision: str
    """Its state: a version, or a hash of its files' names, sizes and contents (see folders.py for how much of the
    contents)."""
    files: tuple[File, ...]
    """Its files, in order."""
    earlier: str | None = None
    """The revision by names and sizes alone, which older manifests hold; a folder with it counts as prepared from
    this source."""

    @property
    def bytes(self) -> int:
        """About how many bytes of text it holds."""
        return sum(file.bytes for file in self.files)

    def documents(self) -> Iterator[str]:
        """Read all its documents in order; files are fetched to a temporary folder, one at a time."""
        with tempfile.TemporaryDirectory() as name:
            for file in self.files:
                for piece in _opened(file, Path(name)):
                    yield from piece.documents()
                file.close(Path(name))


def _opened(file: File, folder: Path) -> Sequence[Piece]:
    opening = Ahead(lambda: file.open(folder))
    with Progress("fetching", file.download, "B") as progress:
        return opening.result(lambda: progress.advance(file.fetched(folder) - progress.done))
