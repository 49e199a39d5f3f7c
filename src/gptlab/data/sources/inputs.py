"""A source that was found: the inputs it consists of, each of which is here or is fetched when its turn comes."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptlab.data.background import Ahead
from gptlab.data.sources.files import Piece
from gptlab.progress import Progress


@dataclass(frozen=True)
class Input:
    """A part of a source that comes as a whole."""

    key: str
    """Names its content, wherever it lies."""
    bytes: int
    """About how many bytes of text it holds."""

    @property
    def download(self) -> int:
        """How many bytes have to be fetched for it."""
        return 0

    def fetched(self, folder: Path) -> int:
        """Return how many of these `open` has put into `folder` so far."""
        return 0

    def open(self, folder: Path) -> Sequence[Piece]:
        """Fetch it into `folder`, if it is not here, and cut it into pieces.

        Raises:
            DataError: it cannot be had, or is not what it should be.
        """
        raise NotImplementedError

    def close(self, folder: Path) -> None:
        """Take away what `open` put into `folder`, if it did."""


@dataclass(frozen=True)
class Here(Input):
    """Files that are here: one input however many they are, so that small ones share a job."""

    pieces: tuple[Piece, ...]
    """What they were cut into."""

    @staticmethod
    def of(pieces: Sequence[Piece]) -> "Here":
        """Make an input of pieces."""
        key = hashlib.sha256(repr(pieces).encode()).hexdigest()
        return Here(key, sum(piece.bytes for piece in pieces), tuple(pieces))

    def open(self, folder: Path) -> Sequence[Piece]:
        return self.pieces


@dataclass(frozen=True)
class Source:
    """A source that was found."""

    name: str
    """What it was asked for by."""
    revision: str
    """Which state of it: a version, or a hash of its files' names, sizes and contents (folders.py says how much
    of these)."""
    inputs: tuple[Input, ...]
    """What it consists of, in order."""
    earlier: str | None = None
    """The revision that folders have which were prepared before contents were part of it: of their source no more
    is known than names and sizes, so that where these agree it counts as the same."""

    @property
    def bytes(self) -> int:
        """About how many bytes of text it holds."""
        return sum(part.bytes for part in self.inputs)

    def documents(self) -> Iterator[str]:
        """Read all its documents in order; what has to be fetched goes to a folder for the time being."""
        with tempfile.TemporaryDirectory() as name:
            for part in self.inputs:
                for piece in _opened(part, Path(name)):
                    yield from piece.documents()
                part.close(Path(name))


def _opened(part: Input, folder: Path) -> Sequence[Piece]:
    opening = Ahead(lambda: part.open(folder))
    with Progress("fetching", part.download, "B") as progress:
        return opening.result(lambda: progress.advance(part.fetched(folder) - progress.done))
